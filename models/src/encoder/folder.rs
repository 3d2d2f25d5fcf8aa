//! Determines a folder's image encoder from its configuration, and the name of its vector space. It
//! loads no network.

use std::path::Path;

use serde_json::{Map, Value};

use super::architecture::Architecture;
use super::blip2::Blip2Config;
use super::open_clip::{OPEN_CLIP, OpenClipConfig};
use crate::clip::ClipConfig;
use crate::{ModelError, Revision, files, weights};

/// Returns the dimensions of the vectors of a folder's towers.
pub fn dims(folder: &Path) -> Result<usize, ModelError> {
    Ok(of_folder(folder)?.dims())
}

/// Returns the name of the vector space of a folder's pictures, unique to the encoder and the side:
/// `name@revision`, plus `;side=` with the side in pixels if it is not the trained one.
pub fn vector_name(folder: &Path, side: Option<usize>) -> Result<String, ModelError> {
    Ok(name_at(&Revision::of_folder(folder)?, side, of_folder(folder)?.side()))
}

pub(super) fn name_at(revision: &Revision, side: Option<usize>, trained: usize) -> String {
    match side {
        Some(side) if side != trained => format!("{revision};side={side}"),
        _ => revision.to_string(),
    }
}

/// Reads open_clip_config.json or config.json. Folders from the hub often have both. Then
/// open_clip's is used if open_clip's weights are there.
pub(super) fn of_folder(folder: &Path) -> Result<Box<dyn Architecture>, ModelError> {
    let (open_clip, path) = (folder.join(OPEN_CLIP), folder.join("config.json"));
    let settings: Map<String, Value> = match path.is_file() || !open_clip.is_file() {
        true => files::read_settings(&path)?,
        false => Map::new(),
    };
    let kind = settings.get("model_type").and_then(Value::as_str);
    if open_clip.is_file() && (has_open_clip_weights(folder) || kind.is_none()) {
        return Ok(Box::new(OpenClipConfig::load(&open_clip)?));
    }
    match kind {
        Some("clip") => Ok(Box::new(ClipConfig::load(&path)?)),
        // Older files lack model_type.
        None if settings.contains_key("projection_dim") || settings.contains_key("vision_config") => {
            Ok(Box::new(ClipConfig::load(&path)?))
        }
        Some("blip-2") => Ok(Box::new(Blip2Config::load(&path)?)),
        other => Err(unknown(&path, other)),
    }
}

fn has_open_clip_weights(folder: &Path) -> bool {
    let name = weights::OPEN_CLIP_NAMES[0];
    [name.to_owned(), format!("{name}.index.json")].iter().any(|name| folder.join(name).is_file())
}

fn unknown(path: &Path, kind: Option<&str>) -> ModelError {
    let kind = kind.unwrap_or("unknown");
    let what = format!(
        "a network of type {kind}, which is not a known image encoder (CLIP, OpenCLIP with ViT, ConvNeXt or EVA, BLIP-2)"
    );
    ModelError::unsupported(path, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::full_size::{Published, folder};

    /// Loads both towers, or the only one.
    fn towers(name: &str, unused: &[&str]) {
        let (published, encoder) = (Published::read(name), of_folder(&folder(name)).unwrap());
        let weights = published.weights();
        encoder.vision(&weights, encoder.side()).unwrap();
        if encoder.text_positions().is_some() {
            encoder.text(&weights).unwrap();
        }
        published.all_asked_for_but(unused);
    }

    #[test]
    fn full_size_clip_uses_every_published_tensor() {
        let names = [
            "clip-vit-base-patch32",
            "clip-vit-large-patch14",
            "clip-vit-large-patch14-336",
            "clip-vit-h-14",
        ];
        names.into_iter().for_each(|name| towers(name, &["logit_scale"]));
    }

    #[test]
    fn full_size_open_clips_use_every_published_tensor() {
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
    fn full_size_blip_2_uses_every_tensor_but_its_head_or_language_model() {
        towers("blip2-itm-vit-g", &["itm_head"]);
        towers("blip2-opt-2.7b", &["language_model", "language_projection"]);
    }

    #[test]
    fn an_unsupported_network_error_names_the_network_or_setting() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
            of_folder(folder.path()).unwrap_err().to_string()
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
