//! The device and the precision of the networks. The device is the first CUDA device if the crate
//! is built with the `cuda` feature and one is present, and the CPU otherwise.

use std::sync::OnceLock;

use candle_core::{DType, Device, Result};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::ModelError;
use crate::named::named;

/// Returns the device that all networks share. Every device that candle opens has its own handles,
/// and tensors of two devices cannot be combined.
pub(crate) fn preferred() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(found).clone()
}

fn found() -> Device {
    // candle's cuda_if_available checks only whether candle was compiled for CUDA.
    if !cfg!(feature = "cuda") {
        return Device::Cpu;
    }
    Device::new_cuda(0).unwrap_or_else(|error| {
        tracing::warn!(%error, "no CUDA device can be used, so networks run on the processor");
        Device::Cpu
    })
}

/// Waits until a newly loaded network is on its device. Every thread has its own stream there, and
/// another thread may run the network.
pub(crate) fn loaded<T>(network: T, device: &Device) -> Result<T> {
    device.synchronize()?;
    Ok(network)
}

/// The type of a network's matrices on candle. On a CPU, 16 bits halve the memory and sums stay in
/// f32; on CUDA, everything is computed in this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case", parse_err_ty = ModelError, parse_err_fn = Self::unknown)]
pub enum Precision {
    #[default]
    F32,
    F16,
    Bf16,
}

named!(Precision, "precision");

impl Precision {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}
