//! MiniLM on candle's BERT.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::bert::{BertModel, Config};

use crate::metrics::normalise;
use crate::texts::TextNetwork;
use crate::{ModelError, device, files, weights};

pub(super) struct CandleBert {
    model: BertModel,
    device: Device,
    pad: u32,
}

impl std::fmt::Debug for CandleBert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CandleBert").field("device", &self.device).finish_non_exhaustive()
    }
}

impl CandleBert {
    pub(super) fn load(folder: &Path) -> Result<Self, ModelError> {
        let device = device::preferred();
        let path = folder.join("config.json");
        let config: Config = files::read_settings(&path)?;
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        if heads == 0 || !width.is_multiple_of(heads) {
            let what = format!("{heads} attention heads do not share a width of {width}");
            return Err(ModelError::broken(path, what));
        }
        let weights = weights::load(folder, &device)?;
        let model = BertModel::load(weights, &config).map_err(|error| ModelError::broken(folder, error))?;
        let model = device::loaded(model, &device)?;
        Ok(Self { model, device, pad: config.pad_token_id as u32 })
    }
}

impl TextNetwork for CandleBert {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let longest = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let (mut tokens, mut mask) = (Vec::new(), Vec::new());
        for ids in ids {
            tokens.extend_from_slice(ids);
            tokens.extend(std::iter::repeat_n(self.pad, longest - ids.len()));
            mask.extend((0..longest).map(|k| if k < ids.len() { 1f32 } else { 0.0 }));
        }
        let shape = (ids.len(), longest);
        let tokens = Tensor::from_vec(tokens, shape, &self.device)?;
        let mask = Tensor::from_vec(mask, shape, &self.device)?;
        let hidden = self.model.forward(&tokens, &tokens.zeros_like()?, Some(&mask))?;
        let sum = hidden.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?;
        // The mean and the sum have the same direction, and only the direction is kept.
        let mut vectors = sum.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        vectors.iter_mut().for_each(|vector| normalise(vector));
        Ok(vectors)
    }
}
