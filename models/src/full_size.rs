//! Tests of the published models at full size, without their weights: for each configuration, our
//! networks must request exactly the tensors, by name and shape, that the reference implementation
//! has (recorded by models/tools/make_published_shapes.py).

use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use crate::weights::expect;

/// All tensors of a published model. Each is a single broadcast zero, so it takes no memory.
pub(crate) struct Published {
    tensors: HashMap<String, Vec<usize>>,
    asked: Mutex<BTreeSet<String>>,
}

#[derive(serde::Deserialize)]
struct File {
    tensors: HashMap<String, Vec<usize>>,
}

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/published").join(name)
}

/// Expands ranges: "layers.{0-2}.norm" becomes layers.0.norm to layers.2.norm.
fn unfolded(name: &str) -> Vec<String> {
    let range = name.split_once('{').and_then(|(before, rest)| {
        let (range, after) = rest.split_once('}')?;
        let (from, to) = range.split_once('-')?;
        Some((before, from.parse::<usize>().ok()?, to.parse::<usize>().ok()?, after))
    });
    match range {
        Some((before, from, to, after)) => (from..=to).map(|k| format!("{before}{k}{after}")).collect(),
        None => vec![name.to_owned()],
    }
}

impl Published {
    pub(crate) fn read(name: &str) -> Arc<Self> {
        let bytes = std::fs::read(folder(name).join("shapes.json")).unwrap();
        let file: File = serde_json::from_slice(&bytes).unwrap();
        let tensors = file.tensors.iter().flat_map(|(name, shape)| {
            unfolded(name).into_iter().map(|name| (name, shape.clone())).collect::<Vec<_>>()
        });
        Arc::new(Self { tensors: tensors.collect(), asked: Mutex::default() })
    }

    pub(crate) fn weights(self: &Arc<Self>) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Asking(self.clone())), DType::F32, Device::Cpu)
    }

    /// Returns the tensors that were not requested.
    pub(crate) fn left(&self) -> Vec<String> {
        let asked = self.asked.lock();
        let mut left: Vec<_> = self.tensors.keys().filter(|name| !asked.contains(*name)).cloned().collect();
        left.sort();
        left
    }

    /// Asserts that all tensors were requested except those with the prefixes `unused`.
    pub(crate) fn all_asked_for_but(&self, unused: &[&str]) {
        let left = self.left();
        let unexpected: Vec<_> =
            left.iter().filter(|name| !unused.iter().any(|unused| name.starts_with(unused))).collect();
        assert!(unexpected.is_empty(), "{} tensors are not used: {unexpected:?}", unexpected.len());
        for unused in unused {
            assert!(left.iter().any(|name| name.starts_with(unused)), "{unused} is used or absent");
        }
    }
}

struct Asking(Arc<Published>);

impl SimpleBackend for Asking {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        expect(&tensor, &shape, name)?;
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(shape) = self.0.tensors.get(name) else { bail!("the reference has no tensor {name}") };
        self.0.asked.lock().insert(name.to_owned());
        Tensor::zeros((), dtype, device)?.broadcast_as(shape.as_slice())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }
}

#[test]
fn name_ranges_are_expanded() {
    assert_eq!(unfolded("a.{9-11}.b"), ["a.9.b", "a.10.b", "a.11.b"]);
    assert_eq!(unfolded("a.9.b"), ["a.9.b"]);
}
