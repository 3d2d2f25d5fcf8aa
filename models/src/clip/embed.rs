//! The two towers as users meet them: texts or pictures in, unit vectors of one space out.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::config::ClipConfig;
use super::text::TextTransformer;
use super::vision::VisionTransformer;
use crate::batches;
use crate::metrics::normalise;
use crate::ops::Linear;
use crate::picture::{Pixels, Preprocessor};
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Revision, device, files};

/// CLIP's text tower.
#[derive(Debug)]
pub struct ClipText {
    tokenizer: TextTokenizer,
    transformer: TextTransformer,
    projection: Linear,
    dims: usize,
    revision: Revision,
}

impl ClipText {
    /// Loads the text tower of a transformers folder.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let config: ClipConfig = files::read_json(&folder.join("config.json"))?;
        let text = &config.text_config;
        let weights = files::load_weights(folder, &device::preferred()?)?;
        let broken = |error| ModelError::broken(folder.join("model.safetensors"), error);
        let projection = Linear::load(weights.pp("text_projection"), text.hidden_size, config.projection_dim);
        Ok(Self {
            tokenizer: TextTokenizer::load(folder, text.max_position_embeddings)?,
            transformer: TextTransformer::load(weights, text).map_err(broken)?,
            projection: projection.map_err(broken)?,
            dims: config.projection_dim,
            revision: Revision::of_folder(folder)?,
        })
    }

    /// The vectors [n, dims] of `texts`, unit norm, in their order. A longer text is cut, its end token kept.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let ids = self.tokenizer.encode(texts)?;
        let mut vectors = vec![Vec::new(); texts.len()];
        for batch in batches::of_similar_length(&ids) {
            let length = batch.iter().map(|&i| ids[i].len()).max().unwrap_or(0);
            // What follows the end token is hidden from it, so any padding will do.
            let rows: Vec<Vec<u32>> = batch
                .iter()
                .map(|&i| {
                    ids[i].iter().copied().chain(std::iter::repeat(self.tokenizer.pad)).take(length).collect()
                })
                .collect();
            let projected = self.projection.forward(&self.transformer.pooled(&rows)?)?;
            for (&i, vector) in batch.iter().zip(unit_rows(&projected)?) {
                vectors[i] = vector;
            }
        }
        Ok(vectors)
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

fn unit_rows(rows: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let mut rows = rows.to_vec2::<f32>()?;
    rows.iter_mut().for_each(|row| normalise(row));
    Ok(rows)
}
