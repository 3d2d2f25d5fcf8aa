//! Multi-head scaled dot-product attention (Vaswani et al., 2017).

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::custom::floats;
use super::kernels;

/// Query rows of one sequence that a task works on.
const ROWS: usize = 64;

/// `q` [batch, n, heads * d], `k` and `v` [batch, m, heads * d] -> [batch, n, heads * d]. `causal` hides from each
/// position what follows it.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    if !q.device().is_cpu() {
        return composed(q, k, v, heads, causal);
    }
    q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &Op { heads, causal })
}

struct Op {
    heads: usize,
    causal: bool,
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_l: &Layout,
        k: &CpuStorage,
        k_l: &Layout,
        v: &CpuStorage,
        v_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (floats(q, q_l)?, floats(k, k_l)?, floats(v, v_l)?);
        let (batch, queries, width) = q_l.shape().dims3()?;
        let (of_keys, keys, _) = k_l.shape().dims3()?;
        if of_keys != batch || k_l.shape() != v_l.shape() || (self.causal && keys < queries) {
            candle_core::bail!("attention of {:?} to {:?} and {:?}", q_l.shape(), k_l.shape(), v_l.shape());
        }
        let kernel =
            kernels::Attention { heads: self.heads, head_dim: width / self.heads, keys, causal: self.causal };
        let mut out = vec![0f32; q.len()];
        let sequences = out.par_chunks_mut(queries * width).zip(q.par_chunks(queries * width)).enumerate();
        sequences.for_each(|(item, (out, q))| {
            let of_item = item * keys * width..(item + 1) * keys * width;
            let (k, v) = (&k[of_item.clone()], &v[of_item]);
            let tasks = out.par_chunks_mut(ROWS * width).zip(q.par_chunks(ROWS * width)).enumerate();
            tasks.for_each(|(task, (out, q))| {
                kernels::dispatch(
                    #[inline(always)]
                    || kernel.run(q, k, v, task * ROWS, out),
                );
            });
        });
        Ok((CpuStorage::F32(out), q_l.shape().clone()))
    }
}

fn composed(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let split =
        |x: &Tensor| x.reshape((batch, x.dim(1)?, heads, width / heads))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let mut scores = (q.matmul(&k.t()?)? / ((width / heads) as f64).sqrt())?;
    if causal {
        scores = scores.broadcast_add(&mask(queries, k.dim(2)?, q.device())?)?;
    }
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
    mixed.transpose(1, 2)?.reshape((batch, queries, width))
}

fn mask(queries: usize, keys: usize, device: &candle_core::Device) -> Result<Tensor> {
    let hidden: Vec<f32> =
        (0..queries * keys).map(|at| if at % keys > at / keys { f32::NEG_INFINITY } else { 0.0 }).collect();
    Tensor::from_vec(hidden, (queries, keys), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    #[test]
    fn it_equals_the_composed_formula() {
        let (q, k, v) = (random(&[3, 70, 24], 1), random(&[3, 11, 24], 2), random(&[3, 11, 24], 3));
        close(&attention(&q, &k, &v, 3, false).unwrap(), &composed(&q, &k, &v, 3, false).unwrap(), 2e-6);
    }

    #[test]
    fn the_future_is_hidden() {
        let (q, k, v) = (random(&[2, 130, 16], 4), random(&[2, 130, 16], 5), random(&[2, 130, 16], 6));
        close(&attention(&q, &k, &v, 2, true).unwrap(), &composed(&q, &k, &v, 2, true).unwrap(), 2e-6);
        let first = attention(&q, &k, &v, 2, true).unwrap().narrow(1, 0, 1).unwrap();
        close(&first, &v.narrow(1, 0, 1).unwrap(), 1e-6);
    }
}
