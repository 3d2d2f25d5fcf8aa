//! What our operations share in being candle custom operations: access to contiguous f32 storage.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Elements a task works on at least.
const TASK: usize = 16 * 1024;

/// Rows a task of a matrix product works on at most: a multiple of every kernel's rows.
const ROWS: usize = 96;

/// Rows a task should have so that every thread gets some of `count`.
pub(super) fn rows_per_task(count: usize) -> usize {
    (count.div_ceil(2 * rayon::current_num_threads()).div_ceil(12) * 12).clamp(12, ROWS)
}

/// Lends `work` a buffer of this thread with `length` values of any content.
pub(super) fn with_buffer<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
        work(&mut buffer[..length])
    })
}

/// The elements of a contiguous f32 tensor.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a contiguous tensor is expected") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The same, to write.
pub(super) fn floats_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a contiguous tensor is expected") };
    let CpuStorage::F32(values) = storage else { bail!("an f32 tensor is expected") };
    Ok(&mut values[start..end])
}

struct Add;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add-in-place"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, to_l: &Layout, from: &CpuStorage, from_l: &Layout) -> Result<()> {
        let (to, from) = (floats_mut(to, to_l)?, floats(from, from_l)?);
        to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        });
        Ok(())
    }
}

/// `to + from`, written over `to` where the device allows it. `to` must be owned by nobody else.
pub(crate) fn add_in_place(to: Tensor, from: &Tensor) -> Result<Tensor> {
    if !to.device().is_cpu() {
        return to + from;
    }
    to.inplace_op2(&from.contiguous()?, &Add)?;
    Ok(to)
}
