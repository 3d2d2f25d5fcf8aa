//! Which network a folder holds, by its configuration, and how its towers are made of its weights.

use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use serde_json::{Map, Value};

use super::VisionNetwork;
use super::blip2::{Blip2Config, Blip2Text, Blip2Vision};
use super::open_clip::OpenClipConfig;
use super::text_tower::CausalText;
use crate::clip::{ClipConfig, TextConfig, VisionConfig, VisionTransformer};
use crate::ops::Linear;
use crate::picture::Preprocessor;
use crate::positions::Resampling;
use crate::texts::TextNetwork;
use crate::weights::{self, Blip2Names, OpenClipNames, renamed};
use crate::{ModelError, files};

/// What a folder holds.
#[derive(Debug)]
pub(super) enum Family {
    /// transformers' CLIPModel.
    Clip(ClipConfig),
    /// open_clip's CLIP and CustomTextCLIP.
    OpenClip(Box<OpenClipConfig>),
    /// transformers' Blip2ForImageTextRetrieval, or Blip2Model and Blip2ForConditionalGeneration without their language model.
    Blip2(Box<Blip2Config>),
}

const OPEN_CLIP: &str = "open_clip_config.json";

impl Family {
    /// By open_clip_config.json or config.json. A folder that has both, as the hub's have, is taken for that of which it has the
    /// weights, open_clip's first.
    pub(super) fn of_folder(folder: &Path) -> Result<Self, ModelError> {
        let (open_clip, path) = (folder.join(OPEN_CLIP), folder.join("config.json"));
        let settings: Map<String, Value> = match path.is_file() || !open_clip.is_file() {
            true => files::read_json(&path)?,
            false => Map::new(),
        };
        let kind = settings.get("model_type").and_then(Value::as_str);
        let own_weights = ["", ".index.json"]
            .iter()
            .any(|end| folder.join(format!("{}{end}", weights::OPEN_CLIP_NAMES[0])).is_file());
        if open_clip.is_file() && (own_weights || kind.is_none()) {
            return Ok(Self::OpenClip(Box::new(OpenClipConfig::load(&open_clip)?)));
        }
        match kind {
            Some("clip") => Ok(Self::Clip(ClipConfig::load(&path)?)),
            // Older files do not say what they are.
            None if settings.contains_key("projection_dim") || settings.contains_key("vision_config") => {
                Ok(Self::Clip(ClipConfig::load(&path)?))
            }
            Some("blip-2") => Ok(Self::Blip2(Box::new(Blip2Config::load(&path)?))),
            other => Err(ModelError::unsupported(
                path,
                format!(
                    "a network of type {}, which is no image encoder known here (CLIP, OpenCLIP, BLIP-2)",
                    other.unwrap_or("unknown")
                ),
            )),
        }
    }

    /// Its weights, which are read when the towers are made of them.
    pub(super) fn weights(
        &self,
        folder: &Path,
        dtype: DType,
        device: &Device,
    ) -> Result<VarBuilder<'static>, ModelError> {
        weights::load_named(folder, self.weight_names(), dtype, device)
    }

    /// What its weights take in f32, of all towers.
    pub(super) fn bytes(&self, folder: &Path) -> Result<u64, ModelError> {
        Ok(4 * weights::count(folder, self.weight_names())?)
    }

    fn weight_names(&self) -> &'static [&'static str] {
        match self {
            Self::OpenClip(_) => &weights::OPEN_CLIP_NAMES,
            Self::Clip(_) | Self::Blip2(_) => &weights::NAMES,
        }
    }

    /// As the log calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Clip(_) => "clip",
            Self::OpenClip(config) => config.visual.name(),
            Self::Blip2(_) => "blip-2",
        }
    }

    pub(super) fn dims(&self) -> usize {
        match self {
            Self::Clip(config) => config.projection_dim,
            Self::OpenClip(config) => config.embed_dim,
            Self::Blip2(config) => config.dims(),
        }
    }

    /// The side in pixels of the pictures it was made for.
    pub(super) fn side(&self) -> usize {
        match self {
            Self::Clip(config) => config.vision_config.image_size,
            Self::OpenClip(config) => config.image_size,
            Self::Blip2(config) => config.vision_config.image_size,
        }
    }

    /// What a side must be a multiple of.
    pub(super) fn patch(&self) -> usize {
        match self {
            Self::Clip(config) => config.vision_config.patch_size,
            Self::OpenClip(config) => config.patch(),
            Self::Blip2(config) => config.vision_config.patch_size,
        }
    }

    /// The steps of its pictures' preprocessing, to `side` where it is given.
    pub(super) fn preprocessor(
        &self,
        folder: &Path,
        side: Option<usize>,
    ) -> Result<Preprocessor, ModelError> {
        let preprocessor = match self {
            Self::Clip(_) | Self::Blip2(_) => Preprocessor::load(&folder.join("preprocessor_config.json"))?,
            Self::OpenClip(config) => config.preprocessor(&folder.join(OPEN_CLIP))?,
        };
        Ok(side.map_or(preprocessor.clone(), |side| preprocessor.with_side(side)))
    }

    /// The vision tower for pictures of `side` pixels.
    pub(super) fn vision(
        &self,
        weights: &VarBuilder<'static>,
        side: usize,
    ) -> CandleResult<Box<dyn VisionNetwork>> {
        match self {
            Self::Clip(config) => {
                let (vision, dims) = (&config.vision_config, config.projection_dim);
                Ok(Box::new(ProjectedVision::load(weights, vision, dims, side, Resampling::Plain)?))
            }
            Self::OpenClip(config) => config.vision(weights, side),
            Self::Blip2(config) => {
                let renamed = renamed(weights, Blip2Names);
                Ok(Box::new(Blip2Vision::load(weights, &renamed, config, side)?))
            }
        }
    }

    /// The configuration of the text tower that is CLIP's, with the weights under transformers' names; none where it is another's.
    pub(super) fn clip_text(
        &self,
        weights: &VarBuilder<'static>,
    ) -> Option<(&TextConfig, VarBuilder<'static>)> {
        match self {
            Self::Clip(config) => Some((&config.text_config, weights.clone())),
            Self::OpenClip(config) => {
                let names = OpenClipNames { custom_text: config.custom_text };
                Some((&config.text, renamed(weights, names)))
            }
            Self::Blip2(_) => None,
        }
    }

    /// The vision tower for pictures of `side` pixels as a graph for ONNX Runtime, and the graph's name for its vectors.
    #[cfg(feature = "onnx")]
    pub(super) fn vision_graph(
        &self,
        weights: &VarBuilder<'static>,
        side: usize,
        int8: bool,
    ) -> CandleResult<(crate::onnx::Graph, crate::onnx::Value)> {
        match self {
            Self::Clip(config) => {
                let mut graph = crate::onnx::Graph::new(weights.clone(), int8);
                let (vision, dims) = (&config.vision_config, config.projection_dim);
                let embeds = crate::onnx::clip_vision(&mut graph, vision, dims, side, Resampling::Plain)?;
                Ok((graph, embeds))
            }
            Self::OpenClip(config) => config.vision_graph(weights, side, int8),
            Self::Blip2(config) => super::blip2::graph::vision(weights, config, side, int8),
        }
    }

    /// The text tower on one of the engines of ONNX Runtime.
    #[cfg(feature = "onnx")]
    pub(super) fn onnx_text(
        &self,
        folder: &Path,
        weights: VarBuilder<'static>,
        engine: crate::engine::Engine,
    ) -> Result<crate::texts::Lanes, ModelError> {
        match (self, self.clip_text(&weights)) {
            (Self::Blip2(config), _) => {
                super::blip2::graph::OnnxBlip2Text::load(folder, config, weights, engine)
            }
            (_, Some((config, renamed))) => {
                crate::onnx::OnnxClipText::load(folder, (config, self.dims()), renamed, engine)
            }
            (_, None) => Err(ModelError::unsupported(folder, "a folder without a text tower")),
        }
    }

    /// The text tower on candle.
    pub(super) fn text(&self, weights: &VarBuilder<'static>) -> CandleResult<Box<dyn TextNetwork>> {
        match (self, self.clip_text(weights)) {
            (_, Some((config, renamed))) => Ok(Box::new(CausalText::load(&renamed, config, self.dims())?)),
            (Self::Blip2(config), None) => Ok(Box::new(Blip2Text::load(weights, config)?)),
            (_, None) => candle_core::bail!("there is no text tower"),
        }
    }

    /// The most tokens of a text; nothing where the folder has no text tower.
    pub(super) fn text_positions(&self) -> Option<usize> {
        match self {
            Self::Clip(config) => Some(config.text_config.max_position_embeddings),
            Self::OpenClip(config) => Some(config.text.max_position_embeddings),
            Self::Blip2(config) => config.text_positions(),
        }
    }
}

/// A vision transformer whose class token is projected into the space of the texts.
#[derive(Debug)]
pub(super) struct ProjectedVision {
    transformer: VisionTransformer,
    projection: Linear,
}

impl ProjectedVision {
    pub(super) fn load(
        weights: &VarBuilder<'static>,
        config: &VisionConfig,
        dims: usize,
        side: usize,
        resampling: Resampling,
    ) -> CandleResult<Self> {
        Ok(Self {
            transformer: VisionTransformer::load(weights.clone(), config, side, resampling)?,
            projection: Linear::load(weights.pp("visual_projection"), config.hidden_size, dims)?,
        })
    }
}

impl VisionNetwork for ProjectedVision {
    fn embed(&self, pixels: &Tensor) -> CandleResult<Tensor> {
        self.projection.forward(&self.transformer.pooled(pixels)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::full_size::{Published, folder};

    /// Both towers, where there are two.
    fn towers(name: &str, unused: &[&str]) {
        let (published, family) = (Published::read(name), Family::of_folder(&folder(name)).unwrap());
        let weights = published.weights();
        family.vision(&weights, family.side()).unwrap();
        if family.text_positions().is_some() {
            family.text(&weights).unwrap();
        }
        published.all_asked_for_but(unused);
    }

    #[test]
    fn clip_is_whole_at_full_size() {
        let names = [
            "clip-vit-base-patch32",
            "clip-vit-large-patch14",
            "clip-vit-large-patch14-336",
            "clip-vit-h-14",
        ];
        names.into_iter().for_each(|name| towers(name, &["logit_scale"]));
    }

    #[test]
    fn open_clips_are_whole_at_full_size() {
        for name in [
            "open-clip-vit-h-14",
            "convnext-xxlarge",
            "eva02-l-14",
            "eva02-l-14-336",
            "eva02-e-14",
            "eva02-e-14-plus",
        ] {
            towers(name, &["logit_scale"]);
        }
    }

    #[test]
    fn blip_2_is_whole_at_full_size_but_for_its_language_model() {
        towers("blip2-itm-vit-g", &["itm_head"]);
        towers("blip2-opt-2.7b", &["language_model", "language_projection"]);
    }

    #[test]
    fn other_networks_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
            Family::of_folder(folder.path()).unwrap_err().to_string()
        };
        assert!(refused("config.json", r#"{"model_type": "siglip"}"#).contains("siglip"));
        let heads = r#"{"model_type": "clip", "vision_config": {"num_attention_heads": 7}}"#;
        assert!(refused("config.json", heads).contains("7 heads"));
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        for (vision, text, named) in [
            (r#""layers": [3, 4, 6, 3]"#, "", "ResNet"),
            (r#""timm_model_name": "vit_base_patch16_siglip""#, "", "vit_base_patch16_siglip"),
            (r#""attentional_pool": true"#, "", "attentional_pool"),
            ("", r#""hf_model_name": "xlm-roberta-base""#, "hf_model_name"),
        ] {
            let config = format!(
                r#"{{"model_cfg": {{"embed_dim": 8, "vision_cfg": {{{vision}}}, "text_cfg": {{{text}}}}}}}"#
            );
            let error = refused("open_clip_config.json", &config);
            assert!(error.contains(named), "{named}: {error}");
        }
    }
}
