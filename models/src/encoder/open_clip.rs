//! OpenCLIP's networks by open_clip_config.json: the towers from its model_cfg, the preprocessing
//! from its preprocess_cfg.

use std::path::Path;

use candle_core::Result as CandleResult;
use candle_nn::VarBuilder;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::architecture::{Architecture, VisionNetwork};
use super::clip::{ClipText, ClipVision};
use super::convnext::{ConvNext, ConvNextArgs};
use super::eva::{Eva, EvaArgs};
use super::timm::{Projection, Trunk};
use crate::ModelError;
use crate::clip::{TextConfig, VisionConfig};
use crate::files::{self, Fixed};
use crate::ops::Activation;
use crate::picture::{Preprocessor, TorchvisionSettings};
use crate::positions::Resampling;
use crate::texts::TextNetwork;
use crate::weights::{self, OpenClipNames, renamed};

/// The configuration file of an open_clip folder.
pub(super) const OPEN_CLIP: &str = "open_clip_config.json";

/// The kind of vision tower.
#[derive(Debug)]
enum Visual {
    Transformer(VisionConfig),
    Eva(EvaArgs, Projection),
    ConvNext(ConvNextArgs, Projection),
}

/// The whole file.
#[derive(Debug)]
pub(super) struct OpenClipConfig {
    embed_dim: usize,
    image_size: usize,
    custom_text: bool,
    visual: Visual,
    text: TextConfig,
    preprocess: TorchvisionSettings,
}

#[derive(Debug, Deserialize)]
struct File {
    model_cfg: Model,
    #[serde(default)]
    preprocess_cfg: TorchvisionSettings,
}

#[derive(Debug, Deserialize)]
struct Model {
    embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    #[serde(default)]
    custom_text: bool,
    vision_cfg: Map<String, Value>,
    text_cfg: Map<String, Value>,
}

/// The settings of open_clip's CLIPVisionCfg that are used.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct VisionCfg {
    layers: Value,
    width: usize,
    head_width: usize,
    mlp_ratio: f64,
    patch_size: usize,
    image_size: usize,
    timm_model_name: Option<String>,
    timm_pool: String,
    timm_proj: Option<String>,
}

impl Default for VisionCfg {
    fn default() -> Self {
        Self {
            layers: Value::from(12),
            width: 768,
            head_width: 64,
            mlp_ratio: 4.0,
            patch_size: 16,
            image_size: 224,
            timm_model_name: None,
            timm_pool: "avg".to_owned(),
            timm_proj: Some("linear".to_owned()),
        }
    }
}

/// The settings of open_clip's CLIPTextCfg that are used.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct TextCfg {
    context_length: usize,
    vocab_size: usize,
    width: usize,
    heads: usize,
    layers: usize,
    mlp_ratio: f64,
}

impl Default for TextCfg {
    fn default() -> Self {
        Self { context_length: 77, vocab_size: 49_408, width: 512, heads: 8, layers: 12, mlp_ratio: 4.0 }
    }
}

/// Settings that change the blocks of either tower.
const BLOCKS: [(&str, &[&str]); 10] = [
    ("act_kwargs", &[]),
    ("block_type", &["default"]),
    ("ls_init_value", &[]),
    ("norm_kwargs", &[]),
    ("qk_norm", &["false"]),
    ("scale_attn", &["false"]),
    ("scale_attn_inner", &["false"]),
    ("scale_fc", &["false"]),
    ("scale_heads", &["false"]),
    ("scaled_cosine_attn", &["false"]),
];

const VISION: Fixed<'static> = &[
    ("attentional_pool", &["false"]),
    ("final_ln_after_pool", &["false"]),
    ("no_ln_pre", &["false"]),
    ("pool_type", &["tok"]),
    ("pos_embed_type", &["learnable"]),
];

const TEXT: Fixed<'static> = &[
    ("embed_cls", &["false"]),
    ("hf_model_name", &[]),
    ("no_causal_mask", &["false"]),
    ("pool_type", &["argmax"]),
    ("proj_bias", &["false"]),
    ("proj_type", &["linear"]),
];

impl OpenClipConfig {
    pub(super) fn load(path: &Path) -> Result<Self, ModelError> {
        let File { model_cfg, preprocess_cfg } = files::read_settings(path)?;
        for (settings, fixed) in [(&model_cfg.vision_cfg, VISION), (&model_cfg.text_cfg, TEXT)] {
            files::check_settings(path, settings, &BLOCKS)?;
            files::check_settings(path, settings, fixed)?;
        }
        let vision: VisionCfg = parse(path, &model_cfg.vision_cfg)?;
        let text: TextCfg = parse(path, &model_cfg.text_cfg)?;
        let activation = if model_cfg.quick_gelu { Activation::QuickGelu } else { Activation::Gelu };
        let (visual, image_size) = match &vision.timm_model_name {
            None => (Visual::Transformer(transformer(path, &vision, activation)?), vision.image_size),
            Some(name) => trunk(path, name, &vision)?,
        };
        Ok(Self {
            embed_dim: model_cfg.embed_dim,
            image_size,
            custom_text: model_cfg.custom_text,
            visual,
            text: text.into_clip(path, activation)?,
            preprocess: preprocess_cfg,
        })
    }

    /// Maps the tensors of OpenCLIP's own transformers to transformers' names.
    fn renamed(&self, weights: &VarBuilder<'static>) -> VarBuilder<'static> {
        renamed(weights, OpenClipNames { custom_text: self.custom_text })
    }
}

impl Architecture for OpenClipConfig {
    fn name(&self) -> &'static str {
        match self.visual {
            Visual::Transformer(_) => "open_clip",
            Visual::Eva(..) => "eva-clip",
            Visual::ConvNext(..) => "convnext-clip",
        }
    }

    fn dims(&self) -> usize {
        self.embed_dim
    }

    fn side(&self) -> usize {
        self.image_size
    }

    fn patch(&self) -> usize {
        match &self.visual {
            Visual::Transformer(config) => config.patch_size,
            Visual::Eva(args, _) => args.patch_size,
            Visual::ConvNext(args, _) => args.stride(),
        }
    }

    fn text_positions(&self) -> Option<usize> {
        Some(self.text.max_position_embeddings)
    }

    fn weight_names(&self) -> &'static [&'static str] {
        &weights::OPEN_CLIP_NAMES
    }

    fn preprocessor(&self, folder: &Path) -> Result<Preprocessor, ModelError> {
        Preprocessor::torchvision(&folder.join(OPEN_CLIP), &self.preprocess, self.image_size)
    }

    fn vision(&self, weights: &VarBuilder<'static>, side: usize) -> CandleResult<Box<dyn VisionNetwork>> {
        let (dims, visual) = (self.embed_dim, weights.pp("visual"));
        match &self.visual {
            Visual::Transformer(config) => {
                let renamed = self.renamed(weights);
                Ok(Box::new(ClipVision::load(&renamed, config, dims, side, Resampling::Antialias)?))
            }
            Visual::Eva(args, projection) => {
                let trunk = Eva::load(visual.pp("trunk"), args, side)?;
                Ok(Box::new(Trunk::load(trunk, &visual, *projection, args.embed_dim, dims)?))
            }
            Visual::ConvNext(args, projection) => {
                let trunk = ConvNext::load(visual.pp("trunk"), args)?;
                Ok(Box::new(Trunk::load(trunk, &visual, *projection, args.width(), dims)?))
            }
        }
    }

    fn text(&self, weights: &VarBuilder<'static>) -> CandleResult<Box<dyn TextNetwork>> {
        Ok(Box::new(ClipText::load(&self.renamed(weights), &self.text, self.embed_dim)?))
    }

    #[cfg(feature = "onnx")]
    fn vision_graph(
        &self,
        weights: &VarBuilder<'static>,
        side: usize,
        int8: bool,
    ) -> CandleResult<(crate::onnx::Graph, crate::onnx::Value)> {
        use super::{convnext, eva, timm};
        use crate::onnx::{Graph, clip_vision};

        let (dims, trunk) = (self.embed_dim, "visual.trunk");
        let mut graph = Graph::new(weights.clone(), int8);
        let embeds = match &self.visual {
            Visual::Transformer(config) => {
                graph.continue_with(self.renamed(weights));
                clip_vision(&mut graph, config, dims, side, Resampling::Antialias)?
            }
            Visual::Eva(args, projection) => {
                let features = eva::graph::features(&mut graph, trunk, args, side)?;
                timm::graph::projected(&mut graph, &features, *projection, args.embed_dim, dims)?
            }
            Visual::ConvNext(args, projection) => {
                let features = convnext::graph::features(&mut graph, trunk, args)?;
                timm::graph::projected(&mut graph, &features, *projection, args.width(), dims)?
            }
        };
        Ok((graph, embeds))
    }

    #[cfg(feature = "onnx")]
    fn onnx_text(
        &self,
        folder: &Path,
        weights: VarBuilder<'static>,
        engine: crate::engine::Engine,
    ) -> Result<crate::texts::TextWorkers, ModelError> {
        let config = (&self.text, self.embed_dim);
        crate::onnx::OnnxClipText::load(folder, config, self.renamed(&weights), engine)
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, map: &Map<String, Value>) -> Result<T, ModelError> {
    serde_json::from_value(Value::Object(map.clone())).map_err(|error| ModelError::broken(path, error))
}

fn transformer(path: &Path, cfg: &VisionCfg, activation: Activation) -> Result<VisionConfig, ModelError> {
    let Some(layers) = cfg.layers.as_u64() else {
        return Err(ModelError::unsupported(path, "a ResNet as its vision tower"));
    };
    if cfg.head_width == 0 || !cfg.width.is_multiple_of(cfg.head_width) || cfg.patch_size == 0 {
        return Err(ModelError::broken(path, "its vision tower's width is not a multiple of head_width"));
    }
    Ok(VisionConfig {
        hidden_size: cfg.width,
        intermediate_size: (cfg.width as f64 * cfg.mlp_ratio) as usize,
        num_hidden_layers: layers as usize,
        num_attention_heads: cfg.width / cfg.head_width,
        num_channels: 3,
        image_size: cfg.image_size,
        patch_size: cfg.patch_size,
        hidden_act: activation,
        layer_norm_eps: 1e-5,
    })
}

/// Parses a vision tower of timm. Returns it with its trained side.
fn trunk(path: &Path, name: &str, cfg: &VisionCfg) -> Result<(Visual, usize), ModelError> {
    let args = super::timm::arguments(path, name)?;
    let projection = Projection::of(path, cfg.timm_proj.as_deref())?;
    if name.starts_with("convnext") {
        if !matches!(cfg.timm_pool.as_str(), "" | "avg") {
            return Err(ModelError::unsupported(path, format!("timm_pool = {}", cfg.timm_pool)));
        }
        let args: ConvNextArgs = parse(path, &args)?;
        args.check(path)?;
        return Ok((Visual::ConvNext(args, projection), cfg.image_size));
    }
    let mut args: EvaArgs = parse(path, &args)?;
    if !cfg.timm_pool.is_empty() {
        args.global_pool.clone_from(&cfg.timm_pool);
    }
    args.check(path)?;
    let side = args.img_size;
    Ok((Visual::Eva(args, projection), side))
}

impl TextCfg {
    fn into_clip(self, path: &Path, activation: Activation) -> Result<TextConfig, ModelError> {
        if self.heads == 0 || !self.width.is_multiple_of(self.heads) {
            return Err(ModelError::broken(path, "its text tower's width is not a multiple of its heads"));
        }
        Ok(TextConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.width,
            intermediate_size: (self.width as f64 * self.mlp_ratio) as usize,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            max_position_embeddings: self.context_length,
            hidden_act: activation,
            layer_norm_eps: 1e-5,
            // In transformers an id of 2 means pooling at the highest id, as open_clip does.
            eos_token_id: 2,
        })
    }
}

#[cfg(all(test, feature = "onnx"))]
mod tests {
    use parking_lot::Mutex;
    use std::collections::HashMap;

    use candle_core::{DType, Device, Shape, Tensor};
    use candle_nn::var_builder::SimpleBackend;

    use super::*;
    use crate::engine::Engine;
    use crate::metrics::{cosine, normalise};
    use crate::onnx::OnnxVision;
    use crate::ops::testing::random;
    use crate::picture::Pixels;

    /// Random weights of any name, in the shape that is requested first.
    #[derive(Default)]
    struct Invented(Mutex<HashMap<String, Tensor>>);

    impl SimpleBackend for Invented {
        fn get(
            &self,
            shape: Shape,
            name: &str,
            _: candle_nn::Init,
            _: DType,
            _: &Device,
        ) -> CandleResult<Tensor> {
            let mut known = self.0.lock();
            let seed = known.len() as u64;
            let inputs: usize = shape.dims().iter().skip(1).product();
            let made = || random(shape.dims(), seed) * (2.0 / (inputs as f64).sqrt());
            let tensor = match known.get(name) {
                Some(tensor) => tensor.clone(),
                None => made()?,
            };
            known.insert(name.to_owned(), tensor.clone());
            assert_eq!(tensor.shape(), &shape, "{name}");
            Ok(tensor)
        }

        fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> CandleResult<Tensor> {
            let known = self.0.lock();
            Ok(known.get(name).unwrap_or_else(|| panic!("the graph has no {name}")).clone())
        }

        fn contains_tensor(&self, _: &str) -> bool {
            true
        }
    }

    /// Settings that the published networks do not use.
    #[test]
    fn graphs_honour_every_setting_that_candles_networks_honour() {
        let eva = r#""img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3"#;
        let convnext = r#""depths": [1, 1, 1, 1], "dims": [8, 8, 12, 16]"#;
        let (l, e, x) =
            ("eva02_large_patch14_clip_224", "eva02_enormous_patch14_clip_224", "convnext_xxlarge");
        for (name, args, vision) in [
            (l, format!(r#"{eva}, "use_abs_pos_emb": false"#), r#""timm_pool": "avg""#),
            (l, format!(r#"{eva}, "use_rot_pos_emb": false, "qkv_fused": true"#), r#""timm_proj": "mlp""#),
            (
                l,
                format!(r#"{eva}, "swiglu_mlp": false, "scale_mlp": true, "scale_attn_inner": true"#),
                r#""timm_proj": "linear""#,
            ),
            (
                e,
                format!(r#"{eva}, "qkv_bias": false, "use_post_norm": false, "mlp_ratio": 1.5"#),
                r#""timm_pool": "token""#,
            ),
            (x, format!(r#"{convnext}, "ls_init_value": null, "kernel_sizes": 5"#), r#""timm_proj": "mlp""#),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("open_clip_config.json");
            let side = if name == x { 32 } else { 16 };
            let cfg = format!(
                r#"{{"model_cfg": {{"embed_dim": 10, "vision_cfg": {{"timm_model_name": "{name}", "image_size": {side}, {vision}}}, "text_cfg": {{}}}}}}"#
            );
            std::fs::write(&path, cfg).unwrap();
            let beside = format!(r#"{{"architecture": "{name}", "model_args": {{{args}}}}}"#);
            std::fs::write(folder.path().join("config.json"), beside).unwrap();
            let config = OpenClipConfig::load(&path).unwrap();
            let weights = VarBuilder::from_backend(Box::new(Invented::default()), DType::F32, Device::Cpu);
            let pixels = random(&[3, side, side, 3], 5);
            let (graph, embeds) = config.vision_graph(&weights, side, false).unwrap();
            let expected =
                config.vision(&weights, side).unwrap().embed(&pixels).unwrap().to_vec2::<f32>().unwrap();
            let mut network = OnnxVision::load(graph, &embeds, (side, 10), Engine::Onnx).unwrap();
            let pixels: Vec<Vec<f32>> = pixels.flatten_from(1).unwrap().to_vec2().unwrap();
            let pictures = pixels.into_iter().map(|values| Pixels { values, height: side, width: side });
            let pictures: Vec<Pixels> = pictures.collect();
            let found = network.embed(&pictures.iter().collect::<Vec<_>>()).unwrap();
            for (found, mut expected) in found.into_iter().zip(expected) {
                normalise(&mut expected);
                assert!(cosine(&found, &expected) > 0.9999, "{args} {vision}");
            }
        }
    }
}
