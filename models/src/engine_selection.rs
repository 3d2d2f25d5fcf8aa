//! Selects the engine that runs a network, with the reason. It knows engines; it must not know
//! networks.

use crate::ModelError;
use crate::device;
use crate::engine::Engine;
use crate::self_check::{self, Probe};

/// The selected engine and the reason.
#[derive(Debug, Clone)]
pub(crate) struct EngineChoice {
    pub engine: Engine,
    pub reason: String,
}

/// The engines that [`Engine::Auto`] tries, in f32, in the order of their speed on the measured
/// processors.
///
/// OpenVINO in bf16 is not among them, although it is the fastest on some processors: on others
/// with the same instructions it is slower than f32, some texts keep less than 0.9999 of cosine,
/// and its destructor once crashed one of our processes.
const BY_SPEED: [Engine; 3] = [Engine::OpenVino, Engine::Onnx, Engine::Candle];

/// The order on a GPU.
const BY_SPEED_ON_GPU: [Engine; 3] = [Engine::Candle, Engine::OpenVino, Engine::Onnx];

/// The order for weights of more than [`LARGE`] bytes. OpenVINO takes several times their memory
/// while it loads them; ONNX Runtime takes twice their memory, and is hardly slower.
const BY_SIZE: [Engine; 3] = [Engine::Onnx, Engine::OpenVino, Engine::Candle];

/// The size in bytes above which weights are large: 2 GiB.
const LARGE: u64 = 2 << 30;

/// Loads the network on the wanted engine or, for [`Engine::Auto`], on the first engine that loads.
/// Every engine must compute candle's vectors.
///
/// `bytes` is the size of the folder's weights in f32.
pub(crate) fn load<P: Probe>(
    what: &str,
    bytes: u64,
    wanted: Engine,
    probe: &P,
    network: impl FnMut(Engine) -> Result<P::Network, ModelError>,
) -> Result<(P::Network, EngineChoice), ModelError> {
    let order = order(bytes, device::preferred().is_cpu());
    select(order, what, wanted, probe, available, network)
}

fn order(bytes: u64, on_cpu: bool) -> [Engine; 3] {
    match on_cpu {
        false => BY_SPEED_ON_GPU,
        true if bytes > LARGE => BY_SIZE,
        true => BY_SPEED,
    }
}

/// Checks that the libraries of an engine other than candle are found, before a network is read for
/// it.
#[cfg(feature = "onnx")]
fn available(engine: Engine) -> Result<(), ModelError> {
    crate::onnx::available(engine)
}

#[cfg(not(feature = "onnx"))]
fn available(_: Engine) -> Result<(), ModelError> {
    Err(ModelError::OnnxRuntime("this build lacks the onnx feature".to_owned()))
}

fn select<P: Probe>(
    order: [Engine; 3],
    what: &str,
    wanted: Engine,
    probe: &P,
    available: impl Fn(Engine) -> Result<(), ModelError>,
    mut network: impl FnMut(Engine) -> Result<P::Network, ModelError>,
) -> Result<(P::Network, EngineChoice), ModelError> {
    let mut expected = None;
    let mut load = |engine| {
        if engine == Engine::Candle {
            return network(engine);
        }
        available(engine)?;
        // One network is dropped before the next is read, because memory may hold only one large
        // network.
        let expected = match &mut expected {
            Some(expected) => expected,
            none => none.insert(probe.vectors(&mut network(Engine::Candle)?)?),
        };
        self_check::checked(network(engine)?, engine, probe, expected)
    };
    if wanted != Engine::Auto {
        let choice = EngineChoice { engine: wanted, reason: "it is configured".to_owned() };
        return load(wanted).map(|network| (network, choice));
    }
    let mut reason =
        format!("the first of {} that passes the self-check", order.map(Engine::name).join(", "));
    let [first, second, last] = order;
    for (engine, next) in [(first, second), (second, last)] {
        match load(engine) {
            Ok(network) => return Ok((network, EngineChoice { engine, reason })),
            Err(error) => {
                tracing::warn!(model = what, %engine, %error, %next, "engine cannot be used here; trying the next");
                reason = format!("{engine} cannot be used here: {error}");
            }
        }
    }
    Ok((load(last)?, EngineChoice { engine: last, reason }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::TextWorkers;

    fn selected(
        wanted: Engine,
        network: impl FnMut(Engine) -> Result<TextWorkers, ModelError>,
    ) -> Result<EngineChoice, ModelError> {
        let tokenizer = self_check::tests::tokenizer();
        let texts = self_check::Texts(&tokenizer);
        select(BY_SPEED, "a model", wanted, &texts, |_| Ok(()), network).map(|(_, choice)| choice)
    }

    #[test]
    fn auto_tries_f32_engines_in_order_and_falls_back_to_candle() {
        let mut tried = Vec::new();
        let failing = |engine| {
            tried.push(engine);
            match engine {
                Engine::Candle => Ok(self_check::tests::rotated(0.0)),
                _ => Err(ModelError::OnnxRuntime("no session".to_owned())),
            }
        };
        assert_eq!(selected(Engine::Auto, failing).unwrap().engine, Engine::Candle);
        // Candle's vectors are computed once for all engines that are compared with them.
        assert_eq!(tried, [Engine::Candle, Engine::OpenVino, Engine::Onnx, Engine::Candle]);
    }

    #[test]
    fn no_network_is_read_for_an_engine_with_missing_libraries() {
        let (mut read, tokenizer) = (Vec::new(), self_check::tests::tokenizer());
        let texts = self_check::Texts(&tokenizer);
        let absent = |engine| Err(ModelError::OnnxRuntime(format!("no library of {engine}")));
        let network = |engine| {
            read.push(engine);
            Ok(self_check::tests::rotated(0.0))
        };
        let (_, choice) = select(BY_SPEED, "a model", Engine::Auto, &texts, absent, network).unwrap();
        assert!(choice.reason.contains("no library of onnx"), "{}", choice.reason);
        assert_eq!(read, [Engine::Candle]);
        let wanted = select(BY_SPEED, "a model", Engine::OpenVino, &texts, absent, |_| unreachable!());
        assert!(wanted.unwrap_err().to_string().contains("no library of openvino"));
    }

    #[test]
    fn large_networks_try_onnx_runtime_first_on_a_cpu() {
        assert_eq!(order(LARGE, true)[0], Engine::OpenVino);
        assert_eq!(order(LARGE + 1, true)[0], Engine::Onnx);
        assert_eq!(order(LARGE + 1, false)[0], Engine::Candle);
    }

    #[test]
    fn auto_skips_failing_engines_with_a_reason_and_a_configured_one_fails() {
        let network = |engine| match engine {
            Engine::Onnx => Err(ModelError::OnnxRuntime("no library".to_owned())),
            Engine::OpenVino => Ok(self_check::tests::rotated(0.5)),
            _ => Ok(self_check::tests::rotated(0.0)),
        };
        let choice = selected(Engine::Auto, network).unwrap();
        assert_eq!(choice.engine, Engine::Candle);
        assert!(choice.reason.contains("cannot be used here") && choice.reason.contains("no library"));
        assert!(matches!(selected(Engine::OpenVino, network), Err(ModelError::Deviates { .. })));
        assert!(matches!(selected(Engine::Onnx, network), Err(ModelError::OnnxRuntime(_))));
        assert_eq!(selected(Engine::OpenVinoBf16, network).unwrap().engine, Engine::OpenVinoBf16);
    }
}
