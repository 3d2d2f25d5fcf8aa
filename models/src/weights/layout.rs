//! Maps the tensor names of transformers' CLIP, which the layers here request, to those of other
//! libraries. If a library stores several matrices as one, the requested part is cut out.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use super::expect;

/// The location of a tensor in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    name: String,
    /// The index of one of three equal parts of the first axis.
    third: Option<usize>,
    transposed: bool,
}

impl Origin {
    fn whole(name: impl Into<String>) -> Self {
        Self { name: name.into(), third: None, transposed: false }
    }
}

/// The tensor names of a library.
pub(crate) trait Layout: Debug + Send + Sync {
    /// Returns the location of the tensor that transformers' CLIP calls `name`.
    fn origin(&self, name: &str) -> Origin;
}

/// The names of open_clip's `CLIP` and `CustomTextCLIP` with its own transformers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenClipNames {
    /// `CustomTextCLIP` has the text tower's tensors under `text`.
    pub custom_text: bool,
}

impl Layout for OpenClipNames {
    fn origin(&self, name: &str) -> Origin {
        match name {
            "visual_projection.weight" => return Origin { transposed: true, ..Origin::whole("visual.proj") },
            "text_projection.weight" => {
                return Origin { transposed: true, ..Origin::whole(self.text("text_projection")) };
            }
            _ => {}
        }
        let (tower, rest) = match name.split_once('.') {
            Some(("vision_model", rest)) => ("visual.".to_owned(), rest),
            Some((_, rest)) => (self.text(""), rest),
            None => return Origin::whole(name),
        };
        let within = match rest {
            "embeddings.class_embedding" => "class_embedding",
            "embeddings.patch_embedding.weight" => "conv1.weight",
            "embeddings.position_embedding.weight" => "positional_embedding",
            "embeddings.token_embedding.weight" => "token_embedding.weight",
            _ => return self.layer(&tower, rest),
        };
        Origin::whole(tower + within)
    }
}

impl OpenClipNames {
    fn text(&self, name: &str) -> String {
        if self.custom_text { format!("text.{name}") } else { name.to_owned() }
    }

    fn layer(&self, tower: &str, rest: &str) -> Origin {
        let replaced = rest
            .replace("pre_layrnorm", "ln_pre")
            .replace("post_layernorm", "ln_post")
            .replace("final_layer_norm", "ln_final")
            .replace("encoder.layers", "transformer.resblocks")
            .replace("layer_norm1", "ln_1")
            .replace("layer_norm2", "ln_2")
            .replace("mlp.fc1", "mlp.c_fc")
            .replace("mlp.fc2", "mlp.c_proj")
            .replace("self_attn.out_proj", "attn.out_proj");
        for (third, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
            if let Some((layer, kind)) = replaced.split_once(&format!("self_attn.{part}.")) {
                let name = format!("{tower}{layer}attn.in_proj_{kind}");
                return Origin { name, third: Some(third), transposed: false };
            }
        }
        Origin::whole(format!("{tower}{replaced}"))
    }
}

/// The names of the vision tower of transformers' BLIP-2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blip2Names;

impl Layout for Blip2Names {
    fn origin(&self, name: &str) -> Origin {
        if name == "vision_model.embeddings.position_embedding.weight" {
            return Origin::whole("vision_model.embeddings.position_embedding");
        }
        for (third, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
            if name.contains(part) {
                return Origin { third: Some(third), ..Origin::whole(name.replace(part, "qkv")) };
            }
        }
        Origin::whole(name.replace("out_proj", "projection"))
    }
}

/// Returns the tensors of `weights` under the names of transformers' CLIP.
pub(crate) fn renamed(weights: &VarBuilder<'static>, layout: impl Layout + 'static) -> VarBuilder<'static> {
    let (dtype, device) = (weights.dtype(), weights.device().clone());
    let renamed = Renamed { weights: weights.clone(), layout: Arc::new(layout) };
    VarBuilder::from_backend(Box::new(renamed), dtype, device)
}

struct Renamed {
    weights: VarBuilder<'static>,
    layout: Arc<dyn Layout>,
}

impl SimpleBackend for Renamed {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        // BLIP-2 stores its vectors as [1, 1, width] and its positions as [1, positions, width].
        let leading = tensor.rank().saturating_sub(shape.rank());
        let tensor = match tensor.dims()[..leading].iter().all(|size| *size == 1) {
            true => (0..leading).try_fold(tensor, |tensor, _| tensor.squeeze(0))?,
            false => tensor,
        };
        expect(&tensor, &shape, &self.layout.origin(name).name)?;
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let origin = self.layout.origin(name);
        let tensor = self.weights.get_unchecked_dtype(&origin.name, dtype)?.to_device(device)?;
        let tensor = match origin.third {
            Some(third) if tensor.dim(0)?.is_multiple_of(3) => {
                let rows = tensor.dim(0)? / 3;
                tensor.narrow(0, third * rows, rows)?
            }
            Some(_) => candle_core::bail!("{} does not hold three equal parts", origin.name),
            None => tensor,
        };
        if origin.transposed { tensor.t() } else { Ok(tensor) }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains_tensor(&self.layout.origin(name).name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(layout: &dyn Layout, name: &str) -> String {
        layout.origin(name).name
    }

    #[test]
    fn open_clip_keeps_the_text_tower_at_the_top_or_under_text() {
        let (plain, custom) = (OpenClipNames { custom_text: false }, OpenClipNames { custom_text: true });
        let layer = "text_model.encoder.layers.3.layer_norm1.bias";
        assert_eq!(name(&plain, layer), "transformer.resblocks.3.ln_1.bias");
        assert_eq!(name(&custom, layer), "text.transformer.resblocks.3.ln_1.bias");
        assert_eq!(name(&custom, "text_projection.weight"), "text.text_projection");
        let vision = "vision_model.embeddings.position_embedding.weight";
        assert_eq!(name(&custom, vision), "visual.positional_embedding");
    }

    #[test]
    fn a_projection_is_sliced_out_of_the_fused_matrix() {
        let values: Vec<f32> = (0..24).map(|value| value as f32).collect();
        let all = Tensor::from_vec(values, (6, 4), &Device::Cpu).unwrap();
        let named = [("visual.transformer.resblocks.0.attn.in_proj_weight".to_owned(), all.clone())];
        let weights = VarBuilder::from_tensors(named.into_iter().collect(), DType::F32, &Device::Cpu);
        let vb = renamed(&weights, OpenClipNames { custom_text: false });
        let keys = vb.get((2, 4), "vision_model.encoder.layers.0.self_attn.k_proj.weight").unwrap();
        assert_eq!(keys.to_vec2::<f32>().unwrap(), all.narrow(0, 2, 2).unwrap().to_vec2::<f32>().unwrap());
        let wrong = vb.get((3, 4), "vision_model.encoder.layers.0.self_attn.k_proj.weight").unwrap_err();
        assert!(wrong.to_string().contains("in_proj_weight"), "{wrong}");
    }

    #[test]
    fn blip_2_has_no_separate_projections() {
        let origin = Blip2Names.origin("vision_model.encoder.layers.1.self_attn.v_proj.bias");
        let expected = "vision_model.encoder.layers.1.self_attn.qkv.bias".to_owned();
        assert_eq!(origin, Origin { name: expected, third: Some(2), transposed: false });
    }
}
