//! timm's networks as open_clip uses them: the arguments that a name stands for, and the projection
//! after a trunk.
//!
//! open_clip_config.json contains only the name; its arguments in timm 1.0.22 are in timm.json. The
//! `model_args` of a timm config.json in the same folder override them, as in timm.

#[cfg(feature = "onnx")]
pub(super) mod graph;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::architecture::VisionNetwork;
use crate::ops::{Activation, Linear};
use crate::{ModelError, files};

const TABLE: &str = include_str!("timm.json");

/// Returns the arguments of a network.
pub(super) fn arguments(path: &Path, name: &str) -> Result<Map<String, Value>, ModelError> {
    #[derive(Deserialize)]
    struct Config {
        architecture: Option<String>,
        #[serde(default)]
        model_args: Map<String, Value>,
    }
    let table: HashMap<String, Map<String, Value>> =
        serde_json::from_str(TABLE).map_err(|error| ModelError::broken("timm.json", error))?;
    let beside = path.with_file_name("config.json");
    let beside: Option<Config> = beside.is_file().then(|| files::read_settings(&beside)).transpose()?;
    let beside = beside.filter(|config| config.architecture.as_deref() == Some(name));
    let known = table.get(name).cloned();
    let model_args = beside.map(|config| config.model_args).unwrap_or_default();
    match known {
        None if model_args.is_empty() => {
            let mut names: Vec<_> = table.keys().map(String::as_str).collect();
            names.sort_unstable();
            let known = names.join(", ");
            Err(ModelError::unsupported(
                path,
                format!("timm's {name} (known names: {known}) as its vision tower"),
            ))
        }
        known => Ok(known.unwrap_or_default().into_iter().chain(model_args).collect()),
    }
}

/// The projection that open_clip's TimmModel puts after the trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Projection {
    /// The trunk's own classifier.
    Classifier,
    Linear,
    Mlp,
}

impl Projection {
    pub(super) fn of(path: &Path, name: Option<&str>) -> Result<Self, ModelError> {
        match name {
            None | Some("") => Ok(Self::Classifier),
            Some("linear") => Ok(Self::Linear),
            Some("mlp") => Ok(Self::Mlp),
            Some(other) => Err(ModelError::unsupported(path, format!("timm_proj = {other}"))),
        }
    }
}

/// A trunk: maps pictures [b, h, w, 3] to pooled features [b, width].
pub(super) trait Features: std::fmt::Debug + Send + Sync {
    fn features(&self, pixels: &Tensor) -> CandleResult<Tensor>;
}

/// A trunk and its projection.
#[derive(Debug)]
pub(super) struct Trunk<F> {
    trunk: F,
    /// The linear layers of the projection, with GELU between them.
    head: Vec<Linear>,
}

impl<F: Features> Trunk<F> {
    /// Loads the projection. `visual` has the tower's weights; the trunk returns `width` features.
    pub(super) fn load(
        trunk: F,
        visual: &VarBuilder,
        projection: Projection,
        width: usize,
        dims: usize,
    ) -> CandleResult<Self> {
        let head = match projection {
            Projection::Classifier => vec![Linear::load(visual.pp("trunk.head"), width, dims)?],
            Projection::Linear => vec![Linear::load(visual.pp("head.proj"), width, dims)?],
            Projection::Mlp => vec![
                Linear::load(visual.pp("head.mlp.fc1"), width, 2 * dims)?,
                Linear::load(visual.pp("head.mlp.fc2"), 2 * dims, dims)?,
            ],
        };
        Ok(Self { trunk, head })
    }
}

impl<F: Features> VisionNetwork for Trunk<F> {
    fn embed(&self, pixels: &Tensor) -> CandleResult<Tensor> {
        let features = self.trunk.features(pixels)?;
        let Some((last, before)) = self.head.split_last() else { return Ok(features) };
        let x = before.iter().try_fold(features, |x, linear| linear.activate(&x, Activation::Gelu))?;
        last.forward(&x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timm_name_sets_its_arguments_and_a_config_json_overrides_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open_clip_config.json");
        let name = "eva02_large_patch14_clip_224";
        assert_eq!(arguments(&path, name).unwrap()["embed_dim"], 1024);
        let beside = format!(r#"{{"architecture": "{name}", "model_args": {{"embed_dim": 24}}}}"#);
        std::fs::write(folder.path().join("config.json"), beside).unwrap();
        let args = arguments(&path, name).unwrap();
        assert_eq!((&args["embed_dim"], &args["depth"]), (&Value::from(24), &Value::from(24)));
        let error = arguments(&path, "swin_base").unwrap_err().to_string();
        assert!(error.contains("swin_base") && error.contains("convnext_xxlarge"), "{error}");
    }
}
