//! The head: a ridge regression from an image encoder's vector [d] to the prompt's MiniLM vector
//! [384].
//!
//! Inputs and targets are centred on the training means, so the means act as the bias. The strength
//! is scikit-learn's `alpha`: W = (X'X + alpha I)^-1 X'Y on the centred samples.

use std::collections::HashMap;

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::ModelError;
use crate::metrics::{cosine, normalise};

/// Strengths to try for unit-norm inputs.
pub const STRENGTHS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

const FORMAT: &str = "unprompt-ridge-head/1";

/// Pairs of an image vector and its prompt's vector. Both lists have the same length.
#[derive(Debug, Clone, Default)]
pub struct Samples<'a> {
    pub inputs: Vec<&'a [f32]>,
    pub targets: Vec<&'a [f32]>,
}

impl Samples<'_> {
    fn dimensions(&self) -> Result<(usize, usize), ModelError> {
        let (Some(input), Some(target)) = (self.inputs.first(), self.targets.first()) else {
            return Err(ModelError::TooFewSamples("a head needs training and validation samples".to_owned()));
        };
        if self.inputs.len() != self.targets.len() {
            return Err(ModelError::TooFewSamples(format!(
                "there are {} image vectors but {} prompt vectors",
                self.inputs.len(),
                self.targets.len()
            )));
        }
        all_have("an image vector", &self.inputs, input.len())?;
        all_have("a prompt vector", &self.targets, target.len())?;
        Ok((input.len(), target.len()))
    }
}

fn all_have(what: &'static str, vectors: &[&[f32]], expected: usize) -> Result<(), ModelError> {
    vectors.iter().try_for_each(|vector| check_dimensions(what, expected, vector.len()))
}

fn check_dimensions(what: &'static str, expected: usize, got: usize) -> Result<(), ModelError> {
    if expected == got { Ok(()) } else { Err(ModelError::Dimensions { what, expected, got }) }
}

/// A fitted head.
#[derive(Debug, Clone, PartialEq)]
pub struct RidgeHead {
    /// [d, targets], row-major.
    weights: Vec<f32>,
    mean_input: Vec<f32>,
    /// The mean target, not normalised.
    bias: Vec<f32>,
    /// `bias` with unit norm.
    mean_target: Vec<f32>,
    strength: f64,
    /// The names and revisions of the encoder and of MiniLM; empty until the head was saved and
    /// loaded.
    encoder: String,
    minilm: String,
}

impl RidgeHead {
    /// Fits a head on `train` with one strength.
    pub fn fit(train: &Samples, strength: f64) -> Result<Self, ModelError> {
        Normal::of(train)?.solve(strength)
    }

    /// Fits a head on `train` with each strength. Returns the one with the highest mean cosine on
    /// `validation`, and that cosine.
    pub fn fit_with_validation(
        train: &Samples,
        validation: &Samples,
        strengths: &[f64],
    ) -> Result<(Self, f64), ModelError> {
        let normal = Normal::of(train)?;
        validation.dimensions()?;
        let mut best: Option<(Self, f64)> = None;
        for &strength in strengths {
            let head = normal.solve(strength)?;
            let score = head.mean_cosine(validation)?;
            if best.as_ref().is_none_or(|(_, least)| score > *least) {
                best = Some((head, score));
            }
        }
        best.ok_or_else(|| ModelError::Parameters("a head needs at least one strength to try".to_owned()))
    }

    fn mean_cosine(&self, samples: &Samples) -> Result<f64, ModelError> {
        let mut total = 0.0;
        for (input, target) in samples.inputs.iter().zip(&samples.targets) {
            check_dimensions("a prompt vector", self.bias.len(), target.len())?;
            total += f64::from(cosine(&self.predict(input)?, target));
        }
        Ok(total / samples.inputs.len().max(1) as f64)
    }

    /// Predicts the prompt's vector [384], unit norm, from an image vector [d].
    pub fn predict(&self, image: &[f32]) -> Result<Vec<f32>, ModelError> {
        check_dimensions("an image vector", self.mean_input.len(), image.len())?;
        let mut sum = self.bias.clone();
        for ((&x, &mean), row) in image.iter().zip(&self.mean_input).zip(self.weights.chunks_exact(sum.len()))
        {
            let centred = x - mean;
            sum.iter_mut().zip(row).for_each(|(sum, &w)| *sum += centred * w);
        }
        normalise(&mut sum);
        Ok(sum)
    }

    /// The "mean prompt": the mean of the training targets, unit norm. It is the baseline that
    /// every head must beat.
    pub fn mean_target(&self) -> &[f32] {
        &self.mean_target
    }

    /// The strength that the head was fitted with.
    pub fn strength(&self) -> f64 {
        self.strength
    }

    /// The name of the picture vectors that the head takes: `name@revision` of the encoder, with
    /// `;side=` if the side is not the trained one. Empty until the head was saved and loaded.
    pub fn encoder(&self) -> &str {
        &self.encoder
    }

    /// The MiniLM (`name@revision`) whose space the head predicts; empty until it was saved and
    /// loaded.
    pub fn minilm(&self) -> &str {
        &self.minilm
    }

    /// Dimensions of the input and the output.
    pub fn dims(&self) -> (usize, usize) {
        (self.mean_input.len(), self.bias.len())
    }

    /// Serialises the head as a safetensors file: `weights` [d, 384], `mean_input` [d], `bias`
    /// [384], and the names as metadata.
    pub fn to_bytes(&self, encoder: &str, minilm: &str) -> Result<Vec<u8>, ModelError> {
        let (inputs, targets) = self.dims();
        let parts = [
            ("weights", vec![inputs, targets], bytes_of(&self.weights)),
            ("mean_input", vec![inputs], bytes_of(&self.mean_input)),
            ("bias", vec![targets], bytes_of(&self.bias)),
        ];
        let mut views = Vec::new();
        for (name, shape, bytes) in &parts {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes)
                .map_err(|e| ModelError::Head(e.to_string()))?;
            views.push((*name, view));
        }
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("encoder".to_owned(), encoder.to_owned()),
            ("minilm".to_owned(), minilm.to_owned()),
            ("strength".to_owned(), self.strength.to_string()),
        ]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| ModelError::Head(error.to_string()))
    }

    /// Reads a file of [`RidgeHead::to_bytes`]. Refuses other formats, mismatched shapes and values
    /// that are not finite.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let broken = |error: safetensors::SafeTensorError| ModelError::Head(error.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry = |name: &str| metadata.get(name).cloned().unwrap_or_default();
        if entry("format") != FORMAT {
            return Err(ModelError::Head(format!("its format is {:?}, not {FORMAT:?}", entry("format"))));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?;
        let part = |name: &str| tensors.tensor(name).map_err(broken);
        let (weights, mean_input, bias) = (part("weights")?, part("mean_input")?, part("bias")?);
        check_shapes(weights.shape(), mean_input.shape(), bias.shape())?;
        let strength = entry("strength").parse().ok().filter(|strength: &f64| strength.is_finite());
        let strength = strength.ok_or_else(|| ModelError::Head("it has no finite strength".to_owned()))?;
        let weights = floats_of("weights", &weights)?;
        let (mean_input, bias) = (floats_of("mean_input", &mean_input)?, floats_of("bias", &bias)?);
        let mean_target = unit(&bias);
        Ok(Self {
            weights,
            mean_input,
            bias,
            mean_target,
            strength,
            encoder: entry("encoder"),
            minilm: entry("minilm"),
        })
    }
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let mut unit = vector.to_vec();
    normalise(&mut unit);
    unit
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Refuses shapes other than [inputs, targets], [inputs] and [targets].
fn check_shapes(weights: &[usize], mean_input: &[usize], bias: &[usize]) -> Result<(), ModelError> {
    match (weights, mean_input, bias) {
        ([rows, columns], [inputs], [targets]) if rows == inputs && columns == targets && *targets > 0 => {
            Ok(())
        }
        _ => Err(ModelError::Head("its tensors' shapes do not match".to_owned())),
    }
}

fn floats_of(name: &str, view: &TensorView) -> Result<Vec<f32>, ModelError> {
    if view.dtype() != Dtype::F32 {
        return Err(ModelError::Head(format!("{name} is {:?}, not F32", view.dtype())));
    }
    let values: Vec<f32> =
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(ModelError::Head(format!("{name} holds values that are not finite"))),
    }
}

/// The normal equations of the centred samples, computed once for all strengths.
struct Normal {
    gram: DMatrix<f64>,
    cross: DMatrix<f64>,
    mean_input: DVector<f64>,
    mean_target: DVector<f64>,
}

/// The number of samples that are converted to f64 at a time.
const BLOCK: usize = 1024;

impl Normal {
    fn of(samples: &Samples) -> Result<Self, ModelError> {
        let (inputs, targets) = samples.dimensions()?;
        let mean_input = mean(&samples.inputs, inputs);
        let mean_target = mean(&samples.targets, targets);
        let (mut gram, mut cross) = (DMatrix::zeros(inputs, inputs), DMatrix::zeros(inputs, targets));
        for (x, y) in samples.inputs.chunks(BLOCK).zip(samples.targets.chunks(BLOCK)) {
            let (x, y) = (centred(x, &mean_input), centred(y, &mean_target));
            gram.gemm(1.0, &x, &x.transpose(), 1.0);
            cross.gemm(1.0, &x, &y.transpose(), 1.0);
        }
        Ok(Self { gram, cross, mean_input, mean_target })
    }

    fn solve(&self, strength: f64) -> Result<RidgeHead, ModelError> {
        let size = self.gram.nrows();
        let damped = &self.gram + DMatrix::identity(size, size) * strength;
        let factor: Cholesky<f64, Dyn> = damped.cholesky().ok_or(ModelError::Singular(strength))?;
        let solution = factor.solve(&self.cross);
        let bias: Vec<f32> = self.mean_target.iter().map(|&x| x as f32).collect();
        let mean_target = unit(&bias);
        Ok(RidgeHead {
            // nalgebra is column-major, so the transpose's storage is row-major [d, targets].
            weights: solution.transpose().iter().map(|&x| x as f32).collect(),
            mean_input: self.mean_input.iter().map(|&x| x as f32).collect(),
            bias,
            mean_target,
            strength,
            encoder: String::new(),
            minilm: String::new(),
        })
    }
}

fn mean(vectors: &[&[f32]], dimensions: usize) -> DVector<f64> {
    let mut sum = DVector::zeros(dimensions);
    for vector in vectors {
        sum.iter_mut().zip(*vector).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    sum / vectors.len() as f64
}

/// Returns the centred samples [dimensions, samples], one column per sample.
fn centred(vectors: &[&[f32]], mean: &DVector<f64>) -> DMatrix<f64> {
    DMatrix::from_fn(mean.len(), vectors.len(), |k, i| f64::from(vectors[i][k]) - mean[k])
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(rng: &mut ChaCha8Rng, n: usize, d: usize) -> Vec<Vec<f32>> {
        (0..n).map(|_| (0..d).map(|_| rng.random::<f32>() - 0.5).collect()).collect()
    }

    fn samples<'a>(inputs: &'a [Vec<f32>], targets: &'a [Vec<f32>]) -> Samples<'a> {
        Samples {
            inputs: inputs.iter().map(Vec::as_slice).collect(),
            targets: targets.iter().map(Vec::as_slice).collect(),
        }
    }

    #[test]
    fn one_dimension_has_the_textbook_solution() {
        // x centred: -1, 0, 1; y centred: -2, 0, 2; w = x'y / (x'x + alpha) = 4 / (2 + 2) = 1.
        let (inputs, targets) =
            (vec![vec![1.0], vec![2.0], vec![3.0]], vec![vec![3.0, 1.0], vec![5.0, 1.0], vec![7.0, 1.0]]);
        let head = RidgeHead::fit(&samples(&inputs, &targets), 2.0).unwrap();
        // At x = 3: [5 + 1, 1], normalised.
        let (prediction, norm) = (head.predict(&[3.0]).unwrap(), 37f32.sqrt());
        assert!((prediction[0] - 6.0 / norm).abs() < 1e-6 && (prediction[1] - 1.0 / norm).abs() < 1e-6);
        assert!((head.mean_target()[0] - 5.0 / 26f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn a_linear_relation_is_found_across_blocks() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let inputs = random(&mut rng, 2 * BLOCK + 17, 6);
        let relation = random(&mut rng, 6, 4);
        let targets: Vec<Vec<f32>> = inputs
            .iter()
            .map(|x| (0..4).map(|j| 1.0 + (0..6).map(|k| x[k] * relation[k][j]).sum::<f32>()).collect())
            .collect();
        let head = RidgeHead::fit(&samples(&inputs, &targets), 1e-6).unwrap();
        let score = head.mean_cosine(&samples(&inputs, &targets)).unwrap();
        assert!(score > 0.99999, "{score}");
    }

    #[test]
    fn validation_chooses_the_strength() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let (inputs, targets) = (random(&mut rng, 30, 25), random(&mut rng, 30, 8));
        let (fresh, noise) = (random(&mut rng, 200, 25), random(&mut rng, 200, 8));
        let shifted = |rows: &[Vec<f32>]| -> Vec<Vec<f32>> {
            rows.iter().map(|row| row.iter().map(|x| x + 1.0).collect()).collect()
        };
        let (targets, noise) = (shifted(&targets), shifted(&noise));
        let (head, score) = RidgeHead::fit_with_validation(
            &samples(&inputs, &targets),
            &samples(&fresh, &noise),
            &[1e-6, 1.0, 1e6],
        )
        .unwrap();
        // The targets are noise around one mean, so the strongest regularisation (1e6) is right.
        assert_eq!(head.strength(), 1e6);
        let weak = RidgeHead::fit(&samples(&inputs, &targets), 1e-6).unwrap();
        assert!(score > weak.mean_cosine(&samples(&fresh, &noise)).unwrap() + 0.01);
    }

    #[test]
    fn a_saved_head_is_the_same_head() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (inputs, targets) = (random(&mut rng, 20, 5), random(&mut rng, 20, 3));
        let head = RidgeHead::fit(&samples(&inputs, &targets), 0.1).unwrap();
        let bytes = head.to_bytes("clip@abc", "minilm@def").unwrap();
        let again = RidgeHead::from_bytes(&bytes).unwrap();
        assert_eq!(again.predict(&inputs[0]).unwrap(), head.predict(&inputs[0]).unwrap());
        assert_eq!(again.mean_target(), head.mean_target());
        assert_eq!((again.encoder(), again.minilm(), again.strength()), ("clip@abc", "minilm@def", 0.1));
    }

    #[test]
    fn invalid_inputs_samples_and_head_files_are_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let (inputs, targets) = (random(&mut rng, 20, 5), random(&mut rng, 20, 3));
        let head = RidgeHead::fit(&samples(&inputs, &targets), 0.1).unwrap();
        assert!(matches!(head.predict(&[0.0; 4]), Err(ModelError::Dimensions { expected: 5, got: 4, .. })));
        assert!(matches!(RidgeHead::from_bytes(b"no head"), Err(ModelError::Head(_))));
        let mut truncated = head.to_bytes("", "").unwrap();
        truncated.truncate(truncated.len() - 4);
        assert!(RidgeHead::from_bytes(&truncated).is_err());
        assert!(RidgeHead::fit(&Samples::default(), 1.0).is_err());
        // The same number of values as another matrix, and a strength that no training has.
        let whole = head.to_bytes("", "").unwrap();
        for (written, changed) in [("[5,3]", "[3,5]"), (r#""0.1""#, r#""inf""#)] {
            let at = whole.windows(written.len()).position(|part| part == written.as_bytes()).unwrap();
            let mut hostile = whole.clone();
            hostile[at..at + written.len()].copy_from_slice(changed.as_bytes());
            assert!(matches!(RidgeHead::from_bytes(&hostile), Err(ModelError::Head(_))), "{changed}");
        }
        let uneven =
            Samples { inputs: vec![&inputs[0], &inputs[1][..2]], targets: vec![&targets[0], &targets[1]] };
        assert!(matches!(RidgeHead::fit(&uneven, 1.0), Err(ModelError::Dimensions { .. })));
    }
}
