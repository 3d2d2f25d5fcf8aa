//! Where the networks run: the first CUDA device where the crate is built with the `cuda` feature and one is
//! there, the processor otherwise. And in which precision.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use candle_core::{DType, Device, Result};

use crate::ModelError;

/// One device for all networks: each that candle opens has handles of its own, and their tensors do not mix.
pub(crate) fn preferred() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(found).clone()
}

fn found() -> Device {
    // candle's cuda_if_available asks only whether it was compiled for CUDA.
    if !cfg!(feature = "cuda") {
        return Device::Cpu;
    }
    Device::new_cuda(0).unwrap_or_else(|error| {
        tracing::warn!(%error, "no CUDA device can be used, so networks run on the processor");
        Device::Cpu
    })
}

/// Waits until a network that was just loaded is on its device. Every thread has its own stream of work there, and the one that runs the
/// network may be another.
pub(crate) fn loaded<T>(network: T, device: &Device) -> Result<T> {
    device.synchronize()?;
    Ok(network)
}

/// What a network on candle keeps its matrices as. On a processor 16 bits halve the memory and sums stay f32; on CUDA all is computed
/// in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    F32,
    F16,
    Bf16,
}

impl Precision {
    /// All of them, by the names configuration knows.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// As it is configured: `f32`, `f16`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = ModelError;

    fn from_str(name: &str) -> std::result::Result<Self, ModelError> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| ModelError::Precision(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_precision_is_found_by_its_name() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        let error = "int4".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("int4") && error.contains("bf16"), "{error}");
    }
}
