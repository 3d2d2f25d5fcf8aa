//! The vision tower of an image encoder: maps pictures to unit vectors in the same space as the
//! text tower's.

#[cfg(feature = "onnx")]
use parking_lot::Mutex;
use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::architecture::{Architecture, VisionNetwork, unit_rows};
use super::folder::{name_at, of_folder};
use crate::device::{self, Precision};
use crate::engine::Engine;
use crate::engine_selection::{self, EngineChoice};
use crate::picture::{Pixels, Preprocessor};
use crate::self_check::Probe;
use crate::{ModelError, Revision};

/// The settings of a vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct VisionSettings {
    /// The side in pixels to which pictures are resized, if it is not the trained one: positions
    /// are interpolated.
    pub side: Option<usize>,
    /// The precision of matrices on candle; the other engines have their own.
    pub precision: Precision,
    pub engine: Engine,
}

/// The vision tower of an image encoder.
#[derive(Debug)]
pub struct VisionTower {
    preprocessor: Preprocessor,
    network: Network,
    choice: EngineChoice,
    dims: usize,
    side: usize,
    vector_name: String,
    revision: Revision,
}

/// A network on one of the engines.
enum Network {
    Candle {
        network: Box<dyn VisionNetwork>,
        device: Device,
        dtype: DType,
    },
    /// A session of ONNX Runtime serves one caller at a time.
    #[cfg(feature = "onnx")]
    Onnx(Mutex<crate::onnx::OnnxVision>),
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Candle { network, .. } => network.fmt(f),
            #[cfg(feature = "onnx")]
            Self::Onnx(network) => network.fmt(f),
        }
    }
}

/// Maximum number of pictures in a batch on a CPU.
const PICTURES: usize = 16;
/// Maximum number of pictures in a batch on a GPU.
const PICTURES_ON_GPU: usize = 64;

impl VisionTower {
    /// Loads the vision tower of a folder.
    ///
    /// # Errors
    /// Fails if the folder has another network, if files are missing or broken, or if the side is
    /// not a multiple of the network's patch.
    pub fn load(folder: &Path, settings: &VisionSettings) -> Result<Self, ModelError> {
        let encoder = of_folder(folder)?;
        let side = side(encoder.as_ref(), settings.side)?;
        let what = format!("{} vision", encoder.name());
        let (network, choice) = network(folder, encoder.as_ref(), side, settings, &what)?;
        let revision = Revision::of_folder(folder)?;
        let preprocessor = encoder.preprocessor(folder)?;
        let preprocessor = settings.side.map_or(preprocessor.clone(), |side| preprocessor.with_side(side));
        check_sides(folder, &preprocessor, side)?;
        let loaded = Self {
            preprocessor,
            network,
            choice,
            dims: encoder.dims(),
            side,
            vector_name: name_at(&revision, settings.side, encoder.side()),
            revision,
        };
        let (engine, reason) = (loaded.engine_name(), loaded.engine_reason());
        tracing::info!(model = %loaded.revision, engine, reason, side, "{what} loaded");
        Ok(loaded)
    }

    /// Preprocesses a picture by the folder's configuration.
    pub fn preprocess(&self, picture: &RgbImage) -> Pixels {
        self.preprocessor.run(picture)
    }

    /// Returns the vectors [n, dims] of preprocessed pictures, unit norm, in order.
    pub fn embed(&self, pictures: &[&Pixels]) -> Result<Vec<Vec<f32>>, ModelError> {
        for pixels in pictures {
            for got in [pixels.height, pixels.width] {
                if got != self.side {
                    return Err(ModelError::Dimensions {
                        what: "a preprocessed picture's side",
                        expected: self.side,
                        got,
                    });
                }
            }
        }
        self.network.embed(pictures, self.side)
    }

    /// Dimensions of a vector.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The side of a preprocessed picture in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// The name of the vector space ([`super::vector_name`]).
    pub fn vector_name(&self) -> &str {
        &self.vector_name
    }

    /// The folder's name and revision, the same for both towers.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// The name of the engine that runs the network ([`Engine::name`]).
    pub fn engine_name(&self) -> &'static str {
        self.choice.engine.name()
    }

    /// The reason why this engine was selected.
    pub fn engine_reason(&self) -> &str {
        &self.choice.reason
    }
}

/// The largest side in pixels. A picture has 50 MB of f32 there; published encoders take up to 560
/// pixels.
const LARGEST_SIDE: usize = 2048;

/// The most patches on a side. Attention takes time by the square of all patches; published
/// encoders have up to 40 on a side.
const MOST_PATCHES: usize = 128;

fn side(encoder: &dyn Architecture, wanted: Option<usize>) -> Result<usize, ModelError> {
    let (side, patch) = (wanted.unwrap_or(encoder.side()), encoder.patch());
    if side > LARGEST_SIDE {
        let reason = format!("a picture's side may be {LARGEST_SIDE} pixels at most, not {side}");
        return Err(ModelError::Parameters(reason));
    }
    if side / patch > MOST_PATCHES {
        let reason =
            format!("a picture may have {MOST_PATCHES} patches on a side at most, not {}", side / patch);
        return Err(ModelError::Parameters(reason));
    }
    match side >= patch && (wanted.is_none() || side.is_multiple_of(patch)) {
        true => Ok(side),
        false => Err(ModelError::Parameters(format!(
            "a picture's side must be a multiple of {patch}, the network's patch, not {side}"
        ))),
    }
}

/// Refuses preprocessing that does not give the network's side whatever the picture is, since
/// pictures of strangers decide then whether they can be embedded, and how much memory they take.
fn check_sides(folder: &Path, preprocessor: &Preprocessor, side: usize) -> Result<(), ModelError> {
    let path = folder.join("preprocessor_config.json");
    match preprocessor.sides() {
        Some(sides) if sides == (side, side) => Ok(()),
        Some((height, width)) => {
            let reason =
                format!("it gives pictures of {width} x {height}, where the network takes {side} x {side}");
            Err(ModelError::broken(path, reason))
        }
        None => {
            let reason = "it neither crops nor resizes both sides, so that pictures keep their proportions; set \
                          do_center_crop to true, or size to a height and a width";
            Err(ModelError::broken(path, reason))
        }
    }
}

fn network(
    folder: &Path,
    encoder: &dyn Architecture,
    side: usize,
    settings: &VisionSettings,
    what: &str,
) -> Result<(Network, EngineChoice), ModelError> {
    let reason = match (settings.engine, settings.precision) {
        (Engine::Auto, Precision::F16 | Precision::Bf16) => {
            Some(format!("only candle keeps weights in {}", settings.precision))
        }
        _ => None,
    };
    let load = |engine| Network::load(folder, encoder, side, settings.precision, engine);
    match reason {
        Some(reason) => Ok((load(Engine::Candle)?, EngineChoice { engine: Engine::Candle, reason })),
        None => {
            engine_selection::load(what, encoder.bytes(folder)?, settings.engine, &Pictures { side }, load)
        }
    }
}

impl Network {
    fn load(
        folder: &Path,
        encoder: &dyn Architecture,
        side: usize,
        precision: Precision,
        engine: Engine,
    ) -> Result<Self, ModelError> {
        match engine {
            Engine::Candle => {
                let (device, dtype) = (device::preferred(), precision.dtype());
                let weights = encoder.weights(folder, dtype, &device)?;
                let network =
                    encoder.vision(&weights, side).map_err(|error| ModelError::broken(folder, error))?;
                let dtype = if device.is_cpu() { DType::F32 } else { dtype };
                let network = device::loaded(network, &device)?;
                Ok(Self::Candle { network, device, dtype })
            }
            #[cfg(feature = "onnx")]
            engine => {
                let weights = encoder.weights(folder, DType::F32, &Device::Cpu)?;
                let graph = encoder.vision_graph(&weights, side, engine == Engine::Int8);
                let (graph, embeds) = graph.map_err(|error| ModelError::broken(folder, error))?;
                let sizes = (side, encoder.dims());
                let loaded = crate::onnx::OnnxVision::load(graph, &embeds, sizes, engine)?;
                Ok(Self::Onnx(Mutex::new(loaded)))
            }
            #[cfg(not(feature = "onnx"))]
            _ => Err(ModelError::OnnxRuntime("this build lacks the onnx feature".to_owned())),
        }
    }

    fn embed(&self, pictures: &[&Pixels], side: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        match self {
            Self::Candle { network, device, dtype } => {
                let mut vectors = Vec::with_capacity(pictures.len());
                let together = if device.is_cpu() { PICTURES } else { PICTURES_ON_GPU };
                for batch in pictures.chunks(together) {
                    let values: Vec<&[f32]> = batch.iter().map(|pixels| pixels.values.as_slice()).collect();
                    let shape = (batch.len(), side, side, 3);
                    let pixels = Tensor::from_vec(values.concat(), shape, device)?;
                    vectors.extend(unit_rows(&network.embed(&pixels.to_dtype(*dtype)?)?)?);
                }
                Ok(vectors)
            }
            // A network keeps no state between calls, so it stays usable after a panic.
            #[cfg(feature = "onnx")]
            Self::Onnx(network) => network.lock().embed(pictures),
        }
    }
}

/// The pictures on which engines are compared: a gradient, hard edges, noise.
struct Pictures {
    side: usize,
}

impl Pictures {
    fn make(&self) -> Vec<Pixels> {
        let side = self.side;
        let level = |kind: usize, x: usize, y: usize, channel: usize| match kind {
            0 => (x + y * (channel + 1)) as f32 / (4 * side) as f32,
            1 => ((x / 3 + y / 5 + channel) % 2) as f32,
            _ => ((x * 7919 + y * 104_729 + channel * 31) * 2_654_435_761 % 1009) as f32 / 1009.0,
        };
        let picture = |kind: usize| {
            let at = |k: usize| level(kind, k / 3 % side, k / 3 / side, k % 3) * 3.0 - 1.5;
            Pixels { values: (0..side * side * 3).map(at).collect(), height: side, width: side }
        };
        (0..3).map(picture).collect()
    }
}

impl Probe for Pictures {
    type Network = Network;

    fn vectors(&self, network: &mut Network) -> Result<Vec<Vec<f32>>, ModelError> {
        let pictures = self.make();
        let pictures: Vec<&Pixels> = pictures.iter().collect();
        let together = network.embed(&pictures, self.side)?;
        Ok([together, network.embed(&pictures[1..2], self.side)?].concat())
    }
}
