//! The parameters of layers in the precision of their computation. Matrices keep the configured
//! precision. On the CPU, everything else and every sum is f32; products are rounded to bf16 if the
//! processor has an instruction for them.

use candle_core::{DType, Result, Shape, Tensor};
use candle_nn::{Init, LayerNorm, VarBuilder};

/// Returns the type of the values between the layers of a network with these weights.
pub(crate) fn activations(vb: &VarBuilder) -> DType {
    if vb.device().is_cpu() { DType::F32 } else { vb.dtype() }
}

/// Loads a parameter that is not a matrix of a product: a bias, an embedding or a norm's weight.
pub(crate) fn parameter(vb: &VarBuilder, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
    vb.get_with_hints_dtype(shape, name, Init::Const(0.), activations(vb))
}

/// Loads a layer's bias [outputs]; zeros if it has none.
pub(super) fn bias(vb: &VarBuilder, outputs: usize) -> Result<Tensor> {
    match vb.contains_tensor("bias") {
        true => parameter(vb, outputs, "bias"),
        false => Tensor::zeros(outputs, activations(vb), vb.device()),
    }
}

/// Layer normalisation (Ba et al., 2016) over the last axis.
pub(crate) fn layer_norm(vb: VarBuilder, width: usize, eps: f64) -> Result<LayerNorm> {
    Ok(LayerNorm::new(parameter(&vb, width, "weight")?, parameter(&vb, width, "bias")?, eps))
}

/// Returns whether a weight is broadcast from one value and takes no memory. Tests use such weights
/// to check shapes only.
pub(super) fn uniform(weight: &Tensor) -> bool {
    weight.elem_count() > 1 && weight.stride().iter().all(|stride| *stride == 0)
}

/// Returns the weight in another shape.
pub(super) fn reshaped(weight: &Tensor, shape: (usize, usize)) -> Result<Tensor> {
    if !uniform(weight) {
        return weight.contiguous()?.reshape(shape);
    }
    (0..weight.rank()).try_fold(weight.clone(), |part, _| part.get(0))?.broadcast_as(shape)
}
