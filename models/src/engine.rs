//! What runs a text network: the choice, its names, and what was chosen here for which reason. It knows CPUs and
//! names, and no network.

use std::fmt;
use std::str::FromStr;

use crate::ModelError;

/// What runs a text network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The fastest of those that are found here and do not cost accuracy; the log and `unprompt doctor` say which and
    /// why. Never [`Engine::Int8`].
    #[default]
    Auto,
    /// OpenVINO in bf16 (cosine to f32 above 0.9999), for processors that multiply bf16.
    OpenVinoBf16,
    /// OpenVINO in f32.
    OpenVino,
    /// ONNX Runtime's own kernels in f32.
    Onnx,
    /// ONNX Runtime with weights and activations in 8 bits: it costs about 0.7 % of cosine.
    Int8,
    /// candle in f32, which needs nothing but the weights.
    Candle,
}

impl Engine {
    /// All of them, by the names configuration knows.
    pub const ALL: [Self; 6] =
        [Self::Auto, Self::OpenVinoBf16, Self::OpenVino, Self::Onnx, Self::Int8, Self::Candle];

    /// As it is configured: `auto`, `openvino-bf16`, `openvino`, `onnx`, `int8`, `candle`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::OpenVinoBf16 => "openvino-bf16",
            Self::OpenVino => "openvino",
            Self::Onnx => "onnx",
            Self::Int8 => "int8",
            Self::Candle => "candle",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let found = Self::ALL.into_iter().find(|engine| engine.name() == name);
        found.ok_or_else(|| ModelError::Engine(name.to_owned()))
    }
}

/// The engine that was chosen, and why.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub engine: Engine,
    pub reason: String,
}

/// Whether this processor multiplies bf16. Those with AMX have avx512_bf16 too.
pub(crate) fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The engines [`Engine::Auto`] tries, fastest first, and why the first is the first. Measured on MiniLM and on CLIP's
/// text tower of two layers of 128: the order is the same for both.
pub(crate) fn by_speed(bf16: bool) -> (Vec<Engine>, String) {
    let in_f32 = [Engine::OpenVino, Engine::Onnx, Engine::Candle];
    match bf16 {
        true => {
            let order = std::iter::once(Engine::OpenVinoBf16).chain(in_f32).collect();
            (order, "this processor has avx512_bf16".to_owned())
        }
        false => (in_f32.to_vec(), "the fastest in f32, for this processor lacks avx512_bf16".to_owned()),
    }
}

/// Loads the wanted engine, or, for [`Engine::Auto`], the first of `(order, reason)` that loads.
pub(crate) fn load<N>(
    what: &str,
    wanted: Engine,
    (order, reason): (Vec<Engine>, String),
    mut load: impl FnMut(Engine) -> Result<N, ModelError>,
) -> Result<(N, Choice), ModelError> {
    if wanted != Engine::Auto {
        let choice = Choice { engine: wanted, reason: "it is configured".to_owned() };
        return load(wanted).map(|network| (network, choice));
    }
    let mut reason = reason;
    for (at, &engine) in order.iter().enumerate() {
        match load(engine) {
            Ok(network) => return Ok((network, Choice { engine, reason })),
            Err(error) if at + 1 == order.len() => return Err(error),
            Err(error) => {
                tracing::warn!(model = what, %engine, %error, next = %order[at + 1], "engine does not load here");
                reason = format!("{engine} does not load: {error}");
            }
        }
    }
    Err(ModelError::Engine(wanted.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_is_found_by_its_name() {
        for engine in Engine::ALL {
            assert_eq!(engine.to_string().parse::<Engine>().unwrap(), engine);
        }
        let error = "tensorrt".parse::<Engine>().unwrap_err().to_string();
        assert!(error.contains("tensorrt") && error.contains("openvino-bf16"), "{error}");
    }

    #[test]
    fn auto_takes_bf16_only_where_the_processor_has_it_and_never_int8() {
        assert_eq!(by_speed(true).0[0], Engine::OpenVinoBf16);
        assert!(!by_speed(false).0.contains(&Engine::OpenVinoBf16));
        for (order, _) in [by_speed(true), by_speed(false)] {
            assert!(!order.contains(&Engine::Int8));
            assert_eq!(order.last(), Some(&Engine::Candle));
        }
    }

    #[test]
    fn auto_falls_back_and_says_why_and_a_wanted_engine_does_not() {
        let failing = |engine| match engine {
            Engine::Candle => Ok(()),
            _ => Err(ModelError::OnnxRuntime("no library".to_owned())),
        };
        let (_, choice) = load("a model", Engine::Auto, by_speed(true), failing).unwrap();
        assert_eq!(choice.engine, Engine::Candle);
        assert!(choice.reason.contains("does not load") && choice.reason.contains("no library"));
        assert!(load("a model", Engine::Onnx, by_speed(true), failing).is_err());
    }
}
