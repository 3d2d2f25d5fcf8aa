//! The image encoders that the competition's winners used, behind one interface: CLIP (Radford et al., 2021) from a transformers
//! folder; OpenCLIP's ViT, ConvNeXt (Liu et al., 2022) and EVA-CLIP (Sun et al., 2023) from an open_clip folder; BLIP-2's vision
//! transformer with its Q-Former (Li et al., 2023) from a transformers folder. A vision tower and, where the folder has one, a text
//! tower whose vectors can be compared.
//!
//! Which network a folder holds, and of which size, its own configuration says.

mod blip2;
mod convnext;
mod eva;
mod family;
mod open_clip;
mod text_tower;
mod timm;
mod vision_tower;

use std::path::Path;

use candle_core::Tensor;

use crate::metrics::normalise;
use crate::{ModelError, Revision};

pub use crate::device::Precision;
pub use crate::engine::Engine;
pub use crate::picture::Pixels;
#[cfg(feature = "onnx")]
pub(crate) use text_tower::PADDING;
pub use text_tower::TextTower;
pub use vision_tower::{VisionSettings, VisionTower};

use family::Family;

/// Dimensions of the vectors of a folder, both towers' alike. It loads no network.
pub fn dims(folder: &Path) -> Result<usize, ModelError> {
    Ok(Family::of_folder(folder)?.dims())
}

/// What the vectors of a folder's pictures are called, which none of another encoder or another side is: `name@revision`, and
/// `;side=` with the side in pixels where it is not the network's own.
pub fn vector_name(folder: &Path, side: Option<usize>) -> Result<String, ModelError> {
    Ok(name_at(&Revision::of_folder(folder)?, side, Family::of_folder(folder)?.side()))
}

fn name_at(revision: &Revision, side: Option<usize>, own: usize) -> String {
    match side {
        Some(side) if side != own => format!("{revision};side={side}"),
        _ => revision.to_string(),
    }
}

/// Pictures [batch, height, width, 3], as the preprocessor makes them, in; vectors [batch, dims] out, of any norm.
trait VisionNetwork: std::fmt::Debug + Send + Sync {
    fn embed(&self, pixels: &Tensor) -> candle_core::Result<Tensor>;
}

fn unit_rows(rows: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let mut rows = rows.to_dtype(candle_core::DType::F32)?.to_vec2::<f32>()?;
    rows.iter_mut().for_each(|row| normalise(row));
    Ok(rows)
}
