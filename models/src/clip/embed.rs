//! The vision tower as users meet it: pictures in, unit vectors out, in one space with the text tower's.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::config::ClipConfig;
use super::vision::VisionTransformer;
use crate::metrics::normalise;
use crate::ops::Linear;
use crate::picture::{Pixels, Preprocessor};
use crate::{ModelError, Revision, device, files};

/// CLIP's vision tower.
#[derive(Debug)]
pub struct ClipVision {
    preprocessor: Preprocessor,
    transformer: VisionTransformer,
    projection: Linear,
    dims: usize,
    image_size: usize,
    device: Device,
    revision: Revision,
}

/// Pictures in a batch.
const PICTURES: usize = 16;

impl ClipVision {
    /// Loads the vision tower of a transformers folder.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let config: ClipConfig = files::read_json(&folder.join("config.json"))?;
        let vision = &config.vision_config;
        let device = device::preferred()?;
        let weights = files::load_weights(folder, &device)?;
        let broken = |error| ModelError::broken(folder.join("model.safetensors"), error);
        let projection =
            Linear::load(weights.pp("visual_projection"), vision.hidden_size, config.projection_dim);
        Ok(Self {
            preprocessor: Preprocessor::load(&folder.join("preprocessor_config.json"))?,
            transformer: VisionTransformer::load(weights, vision).map_err(broken)?,
            projection: projection.map_err(broken)?,
            dims: config.projection_dim,
            image_size: vision.image_size,
            device,
            revision: Revision::of_folder(folder)?,
        })
    }

    /// The picture as the network takes it, by the folder's preprocessor_config.json.
    pub fn preprocess(&self, picture: &RgbImage) -> Pixels {
        self.preprocessor.run(picture)
    }

    /// The vectors [n, dims] of preprocessed pictures, unit norm, in their order.
    pub fn embed(&self, pictures: &[&Pixels]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut vectors = Vec::with_capacity(pictures.len());
        for batch in pictures.chunks(PICTURES) {
            let pixels = self.stack(batch)?;
            let projected = self.projection.forward(&self.transformer.pooled(&pixels)?)?;
            vectors.extend(unit_rows(&projected)?);
        }
        Ok(vectors)
    }

    fn stack(&self, pictures: &[&Pixels]) -> Result<Tensor, ModelError> {
        let size = self.image_size;
        let mut values = Vec::with_capacity(pictures.len() * size * size * 3);
        for pixels in pictures {
            for got in [pixels.height, pixels.width] {
                if got != size {
                    return Err(ModelError::Dimensions {
                        what: "a preprocessed picture's side",
                        expected: size,
                        got,
                    });
                }
            }
            values.extend_from_slice(&pixels.values);
        }
        Ok(Tensor::from_vec(values, (pictures.len(), size, size, 3), &self.device)?)
    }

    /// Dimensions of a vector.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The folder's name and revision, the same for both towers.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }
}

pub(super) fn unit_rows(rows: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let mut rows = rows.to_vec2::<f32>()?;
    rows.iter_mut().for_each(|row| normalise(row));
    Ok(rows)
}
