//! Buffers of our operations: per-thread scratch memory, the contiguous f32 storage of a tensor,
//! and the number of rows of a task.

use std::cell::RefCell;

use candle_core::{CpuStorage, Layout, Result, bail};

/// Maximum number of rows of a task of a matrix product. It is a multiple of every kernel's rows.
const ROWS: usize = 96;

/// Returns the number of rows of a task, so that `count` rows are spread over all threads.
pub(super) fn rows_per_task(count: usize) -> usize {
    (count.div_ceil(2 * rayon::current_num_threads()).div_ceil(12) * 12).clamp(12, ROWS)
}

/// Calls `work` with this thread's scratch buffer: `length` values with arbitrary content.
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

/// The writable elements of a contiguous f32 tensor.
pub(super) fn floats_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a contiguous tensor is expected") };
    let CpuStorage::F32(values) = storage else { bail!("an f32 tensor is expected") };
    Ok(&mut values[start..end])
}
