//! Addition in place.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::buffers::{floats, floats_mut};

/// The number of elements of a task.
const TASK: usize = 16 * 1024;

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

/// Returns `to + from`, written over `to` where the device allows it. `to` must have no other
/// owner.
pub(crate) fn add_in_place(to: Tensor, from: &Tensor) -> Result<Tensor> {
    if !to.device().is_cpu() {
        return to + from;
    }
    to.inplace_op2(&from.contiguous()?, &Add)?;
    Ok(to)
}
