//! Multi-head scaled dot-product attention (Vaswani et al., 2017).

#[cfg(feature = "flash-attn")]
use candle_core::DType;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::buffers::{floats, with_buffer};
use super::kernels;
use super::matmul::{Packed, Products};

/// The number of scores that a task holds at once, whatever the number of keys: 512 KiB, which fits
/// in a core's second-level cache.
const SCORES: usize = 128 * 1024;
/// Minimum and maximum number of query rows of a task, all of one sequence. Both are multiples of
/// every product's rows.
const ROWS: (usize, usize) = (12, 96);

/// Maximum bytes of the scores of a slice of queries, over all heads and sequences, on devices
/// without our own kernel: 256 MiB. Without slices, SD2.1 at 768 x 768 with guidance takes 1.7 GB
/// in f16.
const SLICE_BYTES: usize = 256 << 20;

/// Computes attention: maps `q` [batch, n, heads * d], `k` and `v` [batch, m, heads * d] to [batch,
/// n, heads * d].
///
/// `causal` hides the positions after each position. On the CPU, a thread holds at most [`SCORES`]
/// scores, or 12 rows of them. On a GPU, flash attention (feature `flash-attn`, 16 bits) holds
/// none; without it at most [`SLICE_BYTES`] are held. `products` applies to the CPU, whose softmax
/// is always in f32.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
    products: Products,
) -> Result<Tensor> {
    if !q.device().is_cpu() {
        return match flash(q, k, v, heads, causal)? {
            Some(mixed) => Ok(mixed),
            None => composed(q, k, v, heads, causal, SLICE_BYTES),
        };
    }
    q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &Op { heads, causal, products })
}

struct Op {
    heads: usize,
    causal: bool,
    products: Products,
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
        let dims = width / self.heads;
        let heads = 0..batch * self.heads;
        let heads: Vec<Head> = heads
            .into_par_iter()
            .map(|at| {
                let (item, head) = (at / self.heads * keys * width, at % self.heads * dims);
                let (k, v) = (&k[item..][..keys * width], &v[item..][..keys * width]);
                Head::pack(k, v, width, head..head + dims, self.products)
            })
            .collect();
        let rows = (SCORES / keys.max(1) / ROWS.0 * ROWS.0).clamp(ROWS.0, ROWS.1);
        let mut out = vec![0f32; q.len()];
        let sequences = out.par_chunks_mut(queries * width).zip(q.par_chunks(queries * width)).enumerate();
        sequences.for_each(|(item, (out, q))| {
            let heads = &heads[item * self.heads..][..self.heads];
            let tasks = out.par_chunks_mut(rows * width).zip(q.par_chunks(rows * width)).enumerate();
            tasks.for_each(|(task, (out, q))| {
                let task = Task { dims, keys, first: self.causal.then_some(task * rows) };
                heads.iter().enumerate().for_each(|(at, head)| task.run(head, at * dims, q, out, width));
            });
        });
        Ok((CpuStorage::F32(out), q_l.shape().clone()))
    }
}

/// Keys and values of one head of one sequence.
struct Head {
    /// [d, keys]
    keys: Packed,
    /// [keys, d]
    values: Packed,
}

impl Head {
    /// Packs the columns `part` of `k` and `v` [keys, width].
    fn pack(k: &[f32], v: &[f32], width: usize, part: std::ops::Range<usize>, products: Products) -> Self {
        let [k, v] = [k, v].map(|x| x.chunks_exact(width).map(|row| &row[part.clone()]).collect::<Vec<_>>());
        Self { keys: Packed::of_transposed(&k, products), values: Packed::of_lines(&v, products) }
    }
}

/// A task: some query rows of one sequence.
struct Task {
    dims: usize,
    keys: usize,
    /// The first row's position if later positions are hidden, None otherwise.
    first: Option<usize>,
}

impl Task {
    /// Computes one head: the columns of `q` and `out` [rows, width] from `start` on.
    fn run(&self, head: &Head, start: usize, q: &[f32], out: &mut [f32], width: usize) {
        let (dims, rows) = (self.dims, q.len() / width);
        let scale = 1.0 / (dims as f32).sqrt();
        with_buffer(rows * (self.keys + dims), |buffer| {
            let (scores, part) = buffer.split_at_mut(rows * self.keys);
            for (part, q) in part.chunks_exact_mut(dims).zip(q.chunks_exact(width)) {
                part.iter_mut().zip(&q[start..]).for_each(|(part, q)| *part = q * scale);
            }
            head.keys.product(part, scores);
            let mut totals = [0f32; ROWS.1];
            for (i, (scores, total)) in scores.chunks_exact_mut(self.keys).zip(&mut totals).enumerate() {
                let visible = self.first.map_or(self.keys, |first| first + i + 1);
                scores[visible..].fill(0.0);
                *total = kernels::dispatch(
                    #[inline(always)]
                    || kernels::exponentials(&mut scores[..visible]),
                );
            }
            head.values.product(scores, part);
            for ((part, out), total) in part.chunks_exact(dims).zip(out.chunks_exact_mut(width)).zip(totals) {
                let inverse = 1.0 / total;
                out[start..].iter_mut().zip(part).for_each(|(out, part)| *out = part * inverse);
            }
        });
    }
}

/// The maximum head size of candle's flash attention. It must also be a multiple of 8.
#[cfg(feature = "flash-attn")]
const FLASH_DIMS: usize = 512;

/// Attention that keeps no scores in memory (Dao, 2023); None if it does not support such tensors.
#[cfg(feature = "flash-attn")]
fn flash(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Option<Tensor>> {
    let ((batch, queries, width), keys) = (q.dims3()?, k.dim(1)?);
    let dims = width / heads;
    let small = matches!(q.dtype(), DType::F16 | DType::BF16) && dims.is_multiple_of(8) && dims <= FLASH_DIMS;
    // With more keys than queries it hides other keys than our code: its last query sees all keys.
    if !small || !q.device().is_cuda() || (causal && queries != keys) {
        return Ok(None);
    }
    let split = |x: &Tensor| x.contiguous()?.reshape((batch, (), heads, dims));
    let scale = 1.0 / (dims as f32).sqrt();
    let mixed = candle_flash_attn::flash_attn(&split(q)?, &split(k)?, &split(v)?, scale, causal)?;
    Ok(Some(mixed.reshape((batch, queries, width))?))
}

#[cfg(not(feature = "flash-attn"))]
fn flash(_: &Tensor, _: &Tensor, _: &Tensor, _: usize, _: bool) -> Result<Option<Tensor>> {
    Ok(None)
}

/// The formula in candle's operations, for as many queries at a time as have scores that fit in
/// `bound` bytes, and at least one. Scores and their softmax are held at the same time, so the
/// memory is twice the bound.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool, bound: usize) -> Result<Tensor> {
    let ((batch, queries, width), keys) = (q.dims3()?, k.dim(1)?);
    let split =
        |x: &Tensor| x.reshape((batch, x.dim(1)?, heads, width / heads))?.transpose(1, 2)?.contiguous();
    // Scales before the product, whose values would not fit in 16 bits otherwise.
    let q = split(&(q / ((width / heads) as f64).sqrt())?)?;
    let (k, v) = (split(k)?.t()?, split(v)?);
    let of_query = batch * heads * keys * q.dtype().size_in_bytes();
    let together = (bound / of_query.max(1)).clamp(1, queries.max(1));
    let slices = (0..queries).step_by(together).map(|first| {
        let q = q.narrow(2, first, together.min(queries - first))?.contiguous()?;
        let mut scores = q.matmul(&k)?;
        if causal {
            scores = scores.broadcast_add(&mask(first, q.dim(2)?, keys, &scores)?)?;
        }
        candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
    });
    let mixed = Tensor::cat(&slices.collect::<Result<Vec<_>>>()?, 2)?;
    mixed.transpose(1, 2)?.reshape((batch, queries, width))
}

/// Returns the causal mask [queries, keys] for the queries from `first` on, in the type and on the
/// device of `scores`.
fn mask(first: usize, queries: usize, keys: usize, scores: &Tensor) -> Result<Tensor> {
    let hidden: Vec<f32> = (0..queries * keys)
        .map(|at| if at % keys > first + at / keys { f32::NEG_INFINITY } else { 0.0 })
        .collect();
    Tensor::from_vec(hidden, (queries, keys), scores.device())?.to_dtype(scores.dtype())
}

#[cfg(test)]
mod tests {
    use candle_core::D;

    use super::*;
    use crate::ops::testing::{close, random};

    /// The textbook formula: all scores at once.
    fn whole(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
        let (batch, queries, width) = q.dims3()?;
        let split =
            |x: &Tensor| x.reshape((batch, x.dim(1)?, heads, width / heads))?.transpose(1, 2)?.contiguous();
        let (q, k, v) = (split(q)?, split(k)?, split(v)?);
        let mut scores = (q.matmul(&k.t()?)? / ((width / heads) as f64).sqrt())?;
        if causal {
            scores = scores.broadcast_add(&mask(0, queries, k.dim(2)?, &scores)?)?;
        }
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        mixed.transpose(1, 2)?.reshape((batch, queries, width))
    }

    #[test]
    fn it_equals_the_formula() {
        let (q, k, v) = (random(&[3, 70, 24], 1), random(&[3, 11, 24], 2), random(&[3, 11, 24], 3));
        close(
            &attention(&q, &k, &v, 3, false, Products::F32).unwrap(),
            &whole(&q, &k, &v, 3, false).unwrap(),
            2e-6,
        );
    }

    #[test]
    fn many_keys_and_wide_heads_equal_the_formula() {
        // Enough keys that a task has fewer rows, in several blocks; heads larger than a panel; one
        // key.
        for (queries, keys, width, heads, causal) in
            [(50, 1500, 96, 2, false), (30, 600, 80, 1, true), (25, 1, 16, 2, false), (40, 700, 40, 1, true)]
        {
            let (q, k, v) =
                (random(&[2, queries, width], 7), random(&[2, keys, width], 8), random(&[2, keys, width], 9));
            let expected = whole(&q, &k, &v, heads, causal).unwrap();
            close(&attention(&q, &k, &v, heads, causal, Products::F32).unwrap(), &expected, 2e-6);
        }
    }

    #[test]
    fn bf16_products_stay_within_a_hundredth_of_the_formula() {
        let weight = random(&[2, 2], 1).to_dtype(candle_core::DType::BF16).unwrap();
        let products = Packed::from_rows(&weight).unwrap().products();
        for (queries, keys, causal) in [(50, 700, false), (70, 11, false), (130, 130, true)] {
            let [q, k, v] = [queries, keys, keys].map(|length| random(&[2, length, 48], length as u64));
            let expected = whole(&q, &k, &v, 3, causal).unwrap();
            close(&attention(&q, &k, &v, 3, causal, products).unwrap(), &expected, 0.01);
        }
    }

    #[test]
    fn causal_attention_hides_later_positions() {
        let (q, k, v) = (random(&[2, 130, 16], 4), random(&[2, 130, 16], 5), random(&[2, 130, 16], 6));
        close(
            &attention(&q, &k, &v, 2, true, Products::F32).unwrap(),
            &whole(&q, &k, &v, 2, true).unwrap(),
            2e-6,
        );
        let first = attention(&q, &k, &v, 2, true, Products::F32).unwrap().narrow(1, 0, 1).unwrap();
        close(&first, &v.narrow(1, 0, 1).unwrap(), 1e-6);
    }

    #[test]
    fn slices_of_any_size_equal_unsliced_attention() {
        for (queries, keys, causal) in
            [(1, 7, false), (64, 64, false), (97, 13, false), (64, 64, true), (50, 61, true)]
        {
            let x = |length, seed| random(&[2, length, 24], seed);
            let (q, k, v) = (x(queries, 7), x(keys, 8), x(keys, 9));
            let expected = whole(&q, &k, &v, 3, causal).unwrap();
            let of_query = 2 * 3 * keys * size_of::<f32>();
            // Less than one query, one, a part of all with a remainder, and more than all.
            for bound in [1, of_query, 17 * of_query, SLICE_BYTES] {
                close(&composed(&q, &k, &v, 3, causal, bound).unwrap(), &expected, 2e-6);
            }
        }
    }

    #[test]
    fn sliced_attention_keeps_16_bit_types() {
        for dtype in [candle_core::DType::F16, candle_core::DType::BF16] {
            let [q, k, v] = [10, 11, 12].map(|seed| random(&[1, 9, 16], seed).to_dtype(dtype).unwrap());
            let found = composed(&q, &k, &v, 2, true, 100).unwrap();
            assert_eq!(found.dtype(), dtype);
            let [q, k, v, found] = [q, k, v, found].map(|x| x.to_dtype(candle_core::DType::F32).unwrap());
            close(&found, &whole(&q, &k, &v, 2, true).unwrap(), 0.02);
        }
    }
}
