//! Checks that an engine computes the right vectors on this machine: compares its vectors of a few
//! inputs with candle's when a network is loaded. A library that generates kernels at run time may
//! be right on one processor and wrong on another, and a wrong vector looks like any other.

use crate::engine::Engine;
use crate::metrics::cosine;
use crate::texts::TextWorkers;
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, texts};

/// A few inputs of a network.
pub(crate) trait Probe {
    type Network;

    /// Returns the network's vectors of the inputs, always in the same order, some computed in a
    /// batch and some alone.
    fn vectors(&self, network: &mut Self::Network) -> Result<Vec<Vec<f32>>, ModelError>;
}

/// Texts: one token, a sentence, and as many tokens as a network takes.
#[derive(Debug)]
pub(crate) struct Texts<'a>(pub &'a TextTokenizer);

impl Probe for Texts<'_> {
    type Network = TextWorkers;

    fn vectors(&self, workers: &mut TextWorkers) -> Result<Vec<Vec<f32>>, ModelError> {
        let texts = ["a", "a red star above the sea, oil on canvas", &"small blue ring ".repeat(100)];
        let together = texts::embed(self.0, workers, &texts)?;
        Ok([together, texts::embed(self.0, workers, &texts[1..2])?].concat())
    }
}

/// Returns the threshold of the check: the lowest cosine to candle's vectors at which an engine is
/// trusted. It is slightly below the engine's own precision.
fn least_cosine(engine: Engine) -> f32 {
    match engine {
        Engine::OpenVinoBf16 => 0.999,
        Engine::Int8 => 0.95,
        Engine::Auto | Engine::OpenVino | Engine::Onnx | Engine::Candle => 0.9999,
    }
}

/// Returns the network if it computes the vectors that candle computed.
///
/// # Errors
/// [`ModelError::Deviates`] if it does not.
pub(crate) fn checked<P: Probe>(
    mut network: P::Network,
    engine: Engine,
    probe: &P,
    expected: &[Vec<f32>],
) -> Result<P::Network, ModelError> {
    let found = probe.vectors(&mut network)?;
    let cosines = expected.iter().zip(&found).map(|(expected, found)| cosine(expected, found));
    // NaN counts as worse than any cosine.
    let worst = cosines.map(|cosine| if cosine.is_nan() { -1.0 } else { cosine }).fold(1.0, f32::min);
    match worst >= least_cosine(engine) {
        true => Ok(network),
        false => {
            Err(ModelError::Deviates { engine: engine.name(), cosine: worst, least: least_cosine(engine) })
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::texts::TextNetwork;

    /// A network that embeds a text as the angle of its number of tokens, rotated by an error from
    /// a given length on.
    #[derive(Debug)]
    struct Rotated {
        by: f32,
        from_length: usize,
    }

    impl TextNetwork for Rotated {
        fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
            let angle =
                |ids: &&[u32]| ids.len() as f32 + if ids.len() >= self.from_length { self.by } else { 0.0 };
            Ok(ids.iter().map(angle).map(|angle| vec![angle.cos(), angle.sin()]).collect())
        }
    }

    /// A network that is wrong by an angle. With 0 it is right.
    pub(crate) fn rotated(by: f32) -> TextWorkers {
        vec![Box::new(Rotated { by, from_length: 0 })]
    }

    pub(crate) fn tokenizer() -> TextTokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-world/checkpoints/clip");
        TextTokenizer::load(&folder, 40).unwrap()
    }

    fn check(engine: Engine, by: f32, from_length: usize) -> Result<(), ModelError> {
        let tokenizer = tokenizer();
        let wrong: TextWorkers = vec![Box::new(Rotated { by, from_length })];
        let texts = Texts(&tokenizer);
        let expected = texts.vectors(&mut rotated(0.0)).unwrap();
        checked(wrong, engine, &texts, &expected).map(drop)
    }

    #[test]
    fn an_engine_within_its_tolerance_passes_the_self_check() {
        check(Engine::Onnx, 0.0, 0).unwrap();
        // These angles give cosines of 0.99995, 0.9995 and 0.98.
        check(Engine::OpenVino, 0.01, 0).unwrap();
        check(Engine::OpenVinoBf16, 0.032, 0).unwrap();
        check(Engine::Int8, 0.2, 0).unwrap();
    }

    #[test]
    fn an_engine_that_deviates_at_any_text_length_is_refused() {
        for (engine, by) in [(Engine::Onnx, 0.02), (Engine::OpenVinoBf16, 0.1), (Engine::Int8, 0.5)] {
            for from_length in [0, 5, 30] {
                let error = check(engine, by, from_length).unwrap_err().to_string();
                assert!(error.contains(engine.name()) && error.contains("[models] engine"), "{error}");
            }
        }
        let error = check(Engine::OpenVino, f32::NAN, 30).unwrap_err().to_string();
        assert!(error.contains("-1"), "{error}");
    }
}
