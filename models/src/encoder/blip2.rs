//! BLIP-2 (Li et al., 2023) without its language model: a vision transformer whose tokens the
//! queries of a Q-Former attend to. A picture's vector is the mean of the queries' outputs,
//! projected into the space of the texts if the folder has the projection
//! (Blip2ForImageTextRetrieval).
//!
//! BLIP-2 itself compares a text with the nearest of 32 query vectors per picture. An index holds
//! one vector per picture, and the dot product with the mean of the queries is the mean of their
//! cosines.

#[cfg(feature = "onnx")]
pub(super) mod graph;

use std::path::Path;

use candle_core::{D, DType, Result as CandleResult, Tensor, bail};
use candle_nn::{LayerNorm, Module, VarBuilder};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::architecture::{Architecture, VisionNetwork, unit_rows};
use crate::ModelError;
use crate::clip::{VisionConfig, VisionTransformer};
use crate::files::{self, Fixed};
use crate::metrics::normalise;
use crate::ops::{Activation, Linear, add_in_place, attention, layer_norm, parameter};
use crate::positions::Resampling;
use crate::texts::TextNetwork;
use crate::weights::{Blip2Names, renamed};

/// config.json of transformers' Blip2Config.
#[derive(Debug, Deserialize)]
pub(super) struct Blip2Config {
    vision_config: VisionConfig,
    #[serde(default)]
    qformer_config: QFormerConfig,
    #[serde(default = "num_query_tokens")]
    num_query_tokens: usize,
    /// Dimensions of the space that pictures and texts share, if they share one.
    image_text_hidden_size: Option<usize>,
    #[serde(default)]
    architectures: Vec<String>,
}

/// Blip2VisionConfig's defaults, where they differ from CLIP's.
fn vision_defaults() -> Value {
    serde_json::json!({
        "hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16,
        "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    })
}

fn num_query_tokens() -> usize {
    32
}

/// Blip2QFormerConfig.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct QFormerConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Activation,
    max_position_embeddings: usize,
    layer_norm_eps: f64,
    cross_attention_frequency: usize,
    encoder_hidden_size: usize,
}

impl Default for QFormerConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            layer_norm_eps: 1e-12,
            cross_attention_frequency: 2,
            encoder_hidden_size: 1408,
        }
    }
}

impl QFormerConfig {
    /// Returns whether a layer has cross-attention to a picture.
    fn reads_picture(&self, layer: usize, reader: Reader) -> bool {
        reader == Reader::Queries && layer.is_multiple_of(self.cross_attention_frequency)
    }
}

const FIXED: Fixed<'static> = &[("position_embedding_type", &["absolute"])];
const RETRIEVAL: &str = "Blip2ForImageTextRetrieval";

impl Blip2Config {
    pub(super) fn load(path: &Path) -> Result<Self, ModelError> {
        let mut settings: Map<String, Value> = files::read_settings(path)?;
        if let Some(Value::Object(qformer)) = settings.get("qformer_config") {
            files::check_settings(path, qformer, FIXED)?;
        }
        let given = settings.insert("vision_config".to_owned(), vision_defaults());
        if let (Some(Value::Object(given)), Some(Value::Object(all))) =
            (given, settings.get_mut("vision_config"))
        {
            all.extend(given);
        }
        let config = serde_json::from_value::<Self>(Value::Object(settings));
        let config = config.map_err(|error| ModelError::broken(path, error))?;
        let (vision, qformer) = (&config.vision_config, &config.qformer_config);
        let heads = [
            (vision.hidden_size, vision.num_attention_heads),
            (qformer.hidden_size, qformer.num_attention_heads),
        ];
        if heads.into_iter().any(|(width, heads)| heads == 0 || !width.is_multiple_of(heads)) {
            return Err(ModelError::broken(path, "a width is not a multiple of its heads"));
        }
        if qformer.cross_attention_frequency == 0 || vision.patch_size == 0 {
            return Err(ModelError::broken(path, "cross_attention_frequency or patch_size is 0"));
        }
        Ok(config)
    }

    /// Returns whether pictures and texts are projected into one space.
    fn is_retrieval(&self) -> bool {
        self.architectures.iter().any(|name| name == RETRIEVAL)
    }

    fn projection(&self, weights: &VarBuilder, name: &str) -> CandleResult<Option<Linear>> {
        let load = || Linear::load(weights.pp(name), self.qformer_config.hidden_size, self.dims());
        self.is_retrieval().then(load).transpose()
    }
}

impl Architecture for Blip2Config {
    fn name(&self) -> &'static str {
        "blip-2"
    }

    fn dims(&self) -> usize {
        let projected = self.image_text_hidden_size.filter(|_| self.is_retrieval());
        projected.unwrap_or(if self.is_retrieval() { 256 } else { self.qformer_config.hidden_size })
    }

    fn side(&self) -> usize {
        self.vision_config.image_size
    }

    fn patch(&self) -> usize {
        self.vision_config.patch_size
    }

    fn text_positions(&self) -> Option<usize> {
        self.is_retrieval().then_some(self.qformer_config.max_position_embeddings)
    }

    fn vision(&self, weights: &VarBuilder<'static>, side: usize) -> CandleResult<Box<dyn VisionNetwork>> {
        Ok(Box::new(Blip2Vision::load(weights, self, side)?))
    }

    fn text(&self, weights: &VarBuilder<'static>) -> CandleResult<Box<dyn TextNetwork>> {
        Ok(Box::new(Blip2Text::load(weights, self)?))
    }

    #[cfg(feature = "onnx")]
    fn vision_graph(
        &self,
        weights: &VarBuilder<'static>,
        side: usize,
        int8: bool,
    ) -> CandleResult<(crate::onnx::Graph, crate::onnx::Value)> {
        graph::vision(weights, self, side, int8)
    }

    #[cfg(feature = "onnx")]
    fn onnx_text(
        &self,
        folder: &Path,
        weights: VarBuilder<'static>,
        engine: crate::engine::Engine,
    ) -> Result<crate::texts::TextWorkers, ModelError> {
        graph::OnnxBlip2Text::load(folder, self, weights, engine)
    }
}

/// The vision tower.
#[derive(Debug)]
struct Blip2Vision {
    transformer: VisionTransformer,
    /// [1, queries, width]
    queries: Tensor,
    qformer: QFormer,
    projection: Option<Linear>,
}

impl Blip2Vision {
    fn load(weights: &VarBuilder<'static>, config: &Blip2Config, side: usize) -> CandleResult<Self> {
        let shape = (1, config.num_query_tokens, config.qformer_config.hidden_size);
        let (renamed, vision) = (renamed(weights, Blip2Names), &config.vision_config);
        Ok(Self {
            transformer: VisionTransformer::load(renamed, vision, side, Resampling::Plain)?,
            queries: parameter(weights, shape, "query_tokens")?,
            qformer: QFormer::load(weights.pp("qformer"), &config.qformer_config, Reader::Queries)?,
            projection: config.projection(weights, "vision_projection")?,
        })
    }
}

impl VisionNetwork for Blip2Vision {
    fn embed(&self, pixels: &Tensor) -> CandleResult<Tensor> {
        let tokens = self.transformer.tokens(pixels)?;
        let (_, queries, width) = self.queries.dims3()?;
        let queries = self.queries.broadcast_as((tokens.dim(0)?, queries, width))?.contiguous()?;
        let read = self.qformer.forward(&queries, Some(&tokens))?;
        let Some(projection) = &self.projection else { return read.mean(1) };
        // BLIP-2 compares unit vectors.
        let projected = projection.forward(&read)?.to_dtype(DType::F32)?;
        let lengths = projected.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        projected.broadcast_div(&lengths)?.mean(1)
    }
}

/// The text tower: the Q-Former without queries and pictures; the vector is the first token's.
#[derive(Debug)]
struct Blip2Text {
    words: Tensor,
    positions: Tensor,
    qformer: QFormer,
    projection: Linear,
}

impl Blip2Text {
    fn load(weights: &VarBuilder, config: &Blip2Config) -> CandleResult<Self> {
        let Some(projection) = config.projection(weights, "text_projection")? else {
            bail!("only {RETRIEVAL} has a text tower")
        };
        let (qformer, embeddings) = (&config.qformer_config, weights.pp("embeddings"));
        let table = |rows, name| parameter(&embeddings, (rows, qformer.hidden_size), name);
        Ok(Self {
            words: table(qformer.vocab_size, "word_embeddings.weight")?,
            positions: table(qformer.max_position_embeddings, "position_embeddings.weight")?,
            qformer: QFormer::load(weights.pp("qformer"), qformer, Reader::Texts)?,
            projection,
        })
    }

    /// Embeds rows of equal length, so that no padding is needed.
    fn embed_alike(&self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let (rows, length) = (ids.len(), ids.first().map_or(0, |ids| ids.len()));
        let flat = Tensor::from_vec(ids.concat(), rows * length, self.words.device())?;
        let words = self.words.index_select(&flat, 0)?.reshape((rows, length, ()))?;
        let embedded = words.broadcast_add(&self.positions.narrow(0, 0, length)?)?;
        let first = self.qformer.forward(&embedded, None)?.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        unit_rows(&self.projection.forward(&first)?)
    }
}

impl TextNetwork for Blip2Text {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut vectors = vec![Vec::new(); ids.len()];
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&at| ids[at].len());
        for alike in order.chunk_by(|&a, &b| ids[a].len() == ids[b].len()) {
            let rows: Vec<&[u32]> = alike.iter().map(|&at| ids[at]).collect();
            for (&at, mut vector) in alike.iter().zip(self.embed_alike(&rows)?) {
                normalise(&mut vector);
                vectors[at] = vector;
            }
        }
        Ok(vectors)
    }
}

/// The input of the Q-Former. Queries attend to a picture in some layers and have their own
/// feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Queries,
    Texts,
}

/// A post-norm transformer (BERT's) with cross-attention to another transformer's tokens.
#[derive(Debug)]
struct QFormer {
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl QFormer {
    fn load(vb: VarBuilder, config: &QFormerConfig, reader: Reader) -> CandleResult<Self> {
        let layer = |k: usize| Layer::load(vb.pp("encoder.layer").pp(k), config, k, reader);
        Ok(Self {
            norm: layer_norm(vb.pp("layernorm"), config.hidden_size, config.layer_norm_eps)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<CandleResult<_>>()?,
        })
    }

    /// `x` [batch, tokens, width], `picture` [batch, tokens, width of the vision tower]
    fn forward(&self, x: &Tensor, picture: Option<&Tensor>) -> CandleResult<Tensor> {
        let x = self.norm.forward(x)?;
        self.layers.iter().try_fold(x, |x, layer| layer.forward(&x, picture))
    }
}

#[derive(Debug)]
struct Layer {
    itself: Attention,
    picture: Option<Attention>,
    up: Linear,
    activation: Activation,
    down: Linear,
    norm: LayerNorm,
}

impl Layer {
    fn load(vb: VarBuilder, config: &QFormerConfig, layer: usize, reader: Reader) -> CandleResult<Self> {
        let width = config.hidden_size;
        let (up, down) = match reader {
            Reader::Queries => ("intermediate_query.dense", "output_query"),
            Reader::Texts => ("intermediate.dense", "output"),
        };
        let reads = config.reads_picture(layer, reader);
        let picture = || Attention::load(vb.pp("crossattention"), config, config.encoder_hidden_size);
        Ok(Self {
            itself: Attention::load(vb.pp("attention"), config, width)?,
            picture: reads.then(picture).transpose()?,
            up: Linear::load(vb.pp(up), width, config.intermediate_size)?,
            activation: config.hidden_act,
            down: Linear::load(vb.pp(down).pp("dense"), config.intermediate_size, width)?,
            norm: layer_norm(vb.pp(down).pp("LayerNorm"), width, config.layer_norm_eps)?,
        })
    }

    fn forward(&self, x: &Tensor, picture: Option<&Tensor>) -> CandleResult<Tensor> {
        let mut x = self.itself.forward(x, x)?;
        if let Some(attention) = &self.picture {
            let Some(picture) = picture else { bail!("queries have no picture to read") };
            x = attention.forward(&x, picture)?;
        }
        let inner = self.up.activate(&x, self.activation)?;
        self.norm.forward(&add_in_place(self.down.forward(&inner)?, &x)?)
    }
}

#[derive(Debug)]
struct Attention {
    queries: Linear,
    keys: Linear,
    values: Linear,
    out: Linear,
    norm: LayerNorm,
    heads: usize,
}

impl Attention {
    fn load(vb: VarBuilder, config: &QFormerConfig, context: usize) -> CandleResult<Self> {
        let width = config.hidden_size;
        let part = |name: &str, inputs| Linear::load(vb.pp("attention").pp(name), inputs, width);
        Ok(Self {
            queries: part("query", width)?,
            keys: part("key", context)?,
            values: part("value", context)?,
            out: Linear::load(vb.pp("output.dense"), width, width)?,
            norm: layer_norm(vb.pp("output.LayerNorm"), width, config.layer_norm_eps)?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> CandleResult<Tensor> {
        let (keys, values) = (self.keys.forward(context)?, self.values.forward(context)?);
        let mixed =
            attention(&self.queries.forward(x)?, &keys, &values, self.heads, false, self.out.products())?;
        self.norm.forward(&add_in_place(self.out.forward(&mixed)?, x)?)
    }
}
