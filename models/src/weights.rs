//! Weights of a network, read from safetensors files one tensor at a time when a layer requests it,
//! so that a network of many gigabytes only needs the memory of its layers. It knows files and
//! names; it must not know networks.

mod layout;

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use safetensors::tensor::Metadata;

use crate::{ModelError, files};

pub(crate) use layout::{Blip2Names, OpenClipNames, renamed};

/// The file names of a network's weights in diffusers and transformers, in order of preference.
pub(crate) const NAMES: [&str; 3] =
    ["model.safetensors", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"];

/// The file names in open_clip. Its folders may contain transformers' weights too.
pub(crate) const OPEN_CLIP_NAMES: [&str; 2] = ["open_clip_model.safetensors", "model.safetensors"];

/// File names of pickled weights. They are refused, because reading them executes code that they
/// contain.
const PICKLED: [&str; 4] =
    ["pytorch_model.bin", "open_clip_pytorch_model.bin", "diffusion_pytorch_model.bin", "model.pt"];

/// All tensors of a network in a folder.
#[derive(Debug)]
struct Weights {
    files: Vec<(PathBuf, Mutex<File>)>,
    tensors: HashMap<String, TensorLocation>,
}

/// The location of a tensor's bytes in the files.
#[derive(Debug)]
struct TensorLocation {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    begin: u64,
    bytes: usize,
}

/// Opens the weights of the network in `folder` as f32 on `device`. f16 and bf16 files are
/// converted.
pub(crate) fn load(folder: &Path, device: &Device) -> Result<VarBuilder<'static>, ModelError> {
    load_named(folder, &NAMES, DType::F32, device)
}

/// Opens the weights in a file with one of `names`, as `dtype`.
pub(crate) fn load_named(
    folder: &Path,
    names: &[&str],
    dtype: DType,
    device: &Device,
) -> Result<VarBuilder<'static>, ModelError> {
    Ok(VarBuilder::from_backend(Box::new(Weights::open(folder, names)?), dtype, device.clone()))
}

/// Counts the values of the weights in `folder`. Reads only the headers of the files.
pub(crate) fn count(folder: &Path, names: &[&str]) -> Result<u64, ModelError> {
    let weights = Weights::open(folder, names)?;
    Ok(weights.tensors.values().map(|location| location.shape.iter().product::<usize>() as u64).sum())
}

impl Weights {
    /// Opens the files and reads their headers. Shards are found through their `*.index.json`.
    ///
    /// # Errors
    /// Fails if a file or shard is missing, truncated or not safetensors, or if no shard has a
    /// tensor that the index names.
    fn open(folder: &Path, names: &[&str]) -> Result<Self, ModelError> {
        let mut weights = Self { files: Vec::new(), tensors: HashMap::new() };
        if let Some(single) = names.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
            weights.add(&single)?;
            return Ok(weights);
        }
        let index =
            names.iter().map(|name| folder.join(format!("{name}.index.json"))).find(|path| path.is_file());
        match index {
            Some(index) => weights.add_shards(folder, &index)?,
            None => return Err(absent(folder, names)),
        }
        Ok(weights)
    }

    fn add_shards(&mut self, folder: &Path, index: &Path) -> Result<(), ModelError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: HashMap<String, String>,
        }
        let map = files::read_json::<Index>(index)?.weight_map;
        let mut shards: Vec<&String> = map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            let path = folder.join(shard);
            if !path.is_file() {
                let hint = format!("{} names it as a shard; fetch the model again", index.display());
                return Err(ModelError::Missing { path, hint });
            }
            self.add(&path)?;
        }
        match map.iter().find(|(name, _)| !self.tensors.contains_key(*name)) {
            Some((name, shard)) => {
                Err(ModelError::broken(folder.join(shard), format!("it lacks the tensor {name}")))
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let broken = |reason: String| ModelError::broken(path, reason);
        let mut file = File::open(path).map_err(|error| broken(error.to_string()))?;
        let length = file.metadata().map_err(|error| broken(error.to_string()))?.len();
        let (begin, header) = header(&mut file, length).map_err(broken)?;
        let announced = begin + header.data_len() as u64;
        if announced > length {
            return Err(broken(format!("it is cut short: it has {length} bytes of {announced}")));
        }
        if announced < length {
            return Err(broken(format!("it has {length} bytes, but its header announces {announced}")));
        }
        for (name, info) in header.tensors() {
            let dtype = DType::try_from(info.dtype).map_err(|error| broken(format!("{name}: {error}")))?;
            let (from, to) = info.data_offsets;
            let location = TensorLocation {
                file: self.files.len(),
                dtype,
                shape: info.shape.clone(),
                begin: begin + from as u64,
                bytes: to - from,
            };
            self.tensors.insert(name, location);
        }
        self.files.push((path.to_path_buf(), Mutex::new(file)));
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn read(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        let Some(location) = self.tensors.get(name) else {
            bail!("it lacks the tensor {name}; its config.json may describe another network")
        };
        let (path, file) = &self.files[location.file];
        let mut bytes = vec![0u8; location.bytes];
        let read = {
            let mut file = file.lock();
            file.seek(SeekFrom::Start(location.begin)).and_then(|_| file.read_exact(&mut bytes))
        };
        if let Err(error) = read {
            bail!("{} cannot be read: {error}", path.display());
        }
        let tensor = Tensor::from_raw_buffer(&bytes, location.dtype, &location.shape, &Device::Cpu)?;
        drop(bytes);
        let tensor = if location.dtype.is_float() { tensor.to_dtype(dtype)? } else { tensor };
        tensor.to_device(device)
    }
}

/// Returns the offset of the tensors and their header.
fn header(file: &mut File, length: u64) -> Result<(u64, Metadata), String> {
    let no_header = || "it is not a safetensors file".to_owned();
    let mut size = [0u8; 8];
    file.read_exact(&mut size).map_err(|_| no_header())?;
    let size = u64::from_le_bytes(size);
    // The format's own limit.
    if size > 100_000_000 {
        return Err(no_header());
    }
    if size + 8 > length {
        return Err(format!("it is cut short: it has {length} bytes, and its header alone has {}", size + 8));
    }
    let mut bytes = vec![0u8; size as usize];
    file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    let header = serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", no_header()))?;
    Ok((size + 8, header))
}

fn absent(folder: &Path, names: &[&str]) -> ModelError {
    match PICKLED.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        Some(path) => ModelError::unsupported(
            path,
            "reading pickled weights, which can run arbitrary code (convert them with safetensors' \
             convert.py, or use the model's .safetensors file)",
        ),
        None => files::missing(&folder.join(names[0])),
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> CandleResult<Tensor> {
        let tensor = self.read(name, dtype, device)?;
        expect(&tensor, &shape, name)?;
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        self.read(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.has(name)
    }
}

/// Refuses a tensor whose shape differs from its layer's; the error names both shapes.
pub(crate) fn expect(tensor: &Tensor, shape: &Shape, name: &str) -> CandleResult<()> {
    if tensor.shape() != shape {
        bail!("{name} has the shape {:?}, but config.json requires {:?}", tensor.dims(), shape.dims());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, names: &[&str]) {
        let tensor = |at: usize| Tensor::new(&[at as f32, 0.5], &Device::Cpu).unwrap();
        let tensors: HashMap<String, Tensor> =
            names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), tensor(at))).collect();
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    fn error(folder: &Path) -> String {
        Weights::open(folder, &NAMES).unwrap_err().to_string()
    }

    #[test]
    fn tensors_are_read_by_name_and_errors_name_the_tensor() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("model.safetensors"), &["a.weight", "a.bias"]);
        let vb = load(folder.path(), &Device::Cpu).unwrap();
        assert!(vb.pp("a").contains_tensor("bias") && !vb.contains_tensor("bias"));
        assert_eq!(vb.pp("a").get(2, "bias").unwrap().to_vec1::<f32>().unwrap(), [1.0, 0.5]);
        let wrong = vb.get(3, "a.bias").unwrap_err().to_string();
        assert!(wrong.contains("a.bias") && wrong.contains("[2]") && wrong.contains("[3]"), "{wrong}");
        let absent = vb.get(3, "b.bias").unwrap_err().to_string();
        assert!(absent.contains("b.bias") && absent.contains("another network"), "{absent}");
    }

    #[test]
    fn shards_load_as_one_network_and_each_must_hold_its_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        let index = serde_json::json!({"weight_map": {"a": one, "b": two}}).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        write(&folder.path().join(one), &["a"]);
        assert!(error(folder.path()).contains(two));
        write(&folder.path().join(two), &["c"]);
        assert!(error(folder.path()).contains("lacks the tensor b"));
        write(&folder.path().join(two), &["b"]);
        let weights = Weights::open(folder.path(), &NAMES).unwrap();
        assert!(weights.has("a") && weights.has("b"));
    }

    #[test]
    fn truncated_overlong_and_foreign_weights_files_have_their_own_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write(&path, &["a", "b"]);
        let whole = std::fs::read(&path).unwrap();
        for kept in [whole.len() - 1, 40] {
            std::fs::write(&path, &whole[..kept]).unwrap();
            assert!(error(folder.path()).contains("cut short"), "{kept}: {}", error(folder.path()));
        }
        std::fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
        assert!(error(folder.path()).contains("its header announces"));
        for content in
            [b"".as_slice(), b"not weights at all", &[9, 0, 0, 0, 0, 0, 0, 0, b'{', 1, 2, 3, 4, 5, 6, 7, 8]]
        {
            std::fs::write(&path, content).unwrap();
            assert!(error(folder.path()).contains("not a safetensors file"), "{}", error(folder.path()));
        }
    }

    #[test]
    fn pickled_or_missing_weights_errors_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        assert!(error(folder.path()).contains("fetch the model again"));
        std::fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
        let pickled = error(folder.path());
        assert!(pickled.contains("pytorch_model.bin") && pickled.contains("safetensors"), "{pickled}");
    }
}
