//! Vectors distributed like sentence embeddings: in many overlapping clusters of far fewer
//! dimensions than the vectors have.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A source of unit vectors; the same seed gives the same vectors.
#[derive(Debug)]
pub struct Cloud {
    centres: Vec<Vec<f32>>,
    axes: Vec<Vec<f32>>,
    rng: ChaCha8Rng,
}

impl Cloud {
    pub fn new(dim: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut rows = |count: usize| -> Vec<Vec<f32>> {
            (0..count).map(|_| (0..dim).map(|_| gaussian(&mut rng)).collect()).collect()
        };
        let (centres, axes) = (rows(300), rows(32));
        Self { centres, axes, rng }
    }

    /// The next vector, of length 1.
    pub fn vector(&mut self) -> Vec<f32> {
        let mut vector = self.centres[self.rng.random_range(0..self.centres.len())].clone();
        for axis in &self.axes {
            let along = 0.2 * gaussian(&mut self.rng);
            vector.iter_mut().zip(axis).for_each(|(v, a)| *v += along * a);
        }
        for v in &mut vector {
            *v += 0.1 * gaussian(&mut self.rng);
        }
        unit(vector)
    }
}

/// The vector, scaled to length 1.
pub fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|v| *v /= norm);
    vector
}

/// An approximately normal value: the sum of twelve uniform ones.
fn gaussian(rng: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}
