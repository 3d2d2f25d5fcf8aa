//! Where the networks run: the first CUDA device where the crate is built with the `cuda` feature and one is
//! there, the processor otherwise.

use candle_core::{Device, Result};

pub(crate) fn preferred() -> Result<Device> {
    if cfg!(feature = "cuda") { Device::cuda_if_available(0) } else { Ok(Device::Cpu) }
}
