//! CLIP's text transformer: causal, with a final layer norm, pooled to one vector per text at its
//! end token.

use candle_core::{Device, Result, Tensor};
use candle_nn::{LayerNorm, Module, VarBuilder};

use super::config::TextConfig;
use super::encoder::{Encoder, Shape};
use crate::ops::{layer_norm, parameter};

#[derive(Debug)]
pub(crate) struct TextTransformer {
    tokens: Tensor,
    positions: Tensor,
    encoder: Encoder,
    norm: LayerNorm,
    eos: u32,
}

impl TextTransformer {
    /// Loads the tensors under `text_model`.
    pub(crate) fn load(vb: VarBuilder, config: &TextConfig) -> Result<Self> {
        let (vb, width) = (vb.pp("text_model"), config.hidden_size);
        let shape = Shape {
            width,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
            causal: true,
        };
        let embeddings = vb.pp("embeddings");
        Ok(Self {
            tokens: parameter(&embeddings, (config.vocab_size, width), "token_embedding.weight")?,
            positions: parameter(
                &embeddings,
                (config.max_position_embeddings, width),
                "position_embedding.weight",
            )?,
            encoder: Encoder::load(vb.pp("encoder"), shape)?,
            norm: layer_norm(vb.pp("final_layer_norm"), width, config.layer_norm_eps)?,
            eos: config.eos_token_id,
        })
    }

    pub(crate) fn device(&self) -> &Device {
        self.tokens.device()
    }

    /// Returns the hidden states [batch, positions, width] of rows of ids of equal length.
    pub(crate) fn hidden(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let (batch, length) = (ids.len(), ids.first().map_or(0, Vec::len));
        let flat = Tensor::from_vec(ids.concat(), batch * length, self.device())?;
        let tokens = self.tokens.index_select(&flat, 0)?.reshape((batch, length, ()))?;
        let x = tokens.broadcast_add(&self.positions.narrow(0, 0, length)?)?;
        self.norm.forward(&self.encoder.forward(x)?)
    }

    /// Returns the hidden states [batch, width] at each row's end token.
    pub(crate) fn pooled(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let hidden = self.hidden(ids)?;
        let rows: Vec<Tensor> = ids
            .iter()
            .enumerate()
            .map(|(row, ids)| hidden.get(row)?.get(end_position(ids, self.eos)))
            .collect::<Result<_>>()?;
        Tensor::stack(&rows, 0)
    }
}

/// Returns the position at which transformers pools: the first end token or, for configurations
/// with 2 as its id, the first occurrence of the highest id. Without an end token it is position 0,
/// as in transformers.
pub(crate) fn end_position(ids: &[u32], eos: u32) -> usize {
    let wanted = if eos == 2 { ids.iter().copied().max() } else { Some(eos) };
    ids.iter().position(|id| Some(*id) == wanted).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_follows_transformers() {
        assert_eq!(end_position(&[90, 5, 99, 99], 99), 2);
        assert_eq!(end_position(&[90, 2, 99, 99], 2), 2);
        assert_eq!(end_position(&[90, 5, 6], 99), 0);
    }
}
