//! A random rotation in n log n: random signs and Walsh-Hadamard transforms in alternation, three
//! times (Andoni et al., "Practical and optimal LSH for angular distance", 2015). The signs are the
//! same in every run.

/// The least number of output values: enough for the keys and the signature.
const MIN_LENGTH: usize = 512;
const ROUNDS: usize = 3;

#[derive(Debug)]
pub(super) struct Rotation {
    length: usize,
    /// ±1, `length` for each round.
    signs: Vec<f32>,
}

impl Rotation {
    pub fn new(dim: usize) -> Self {
        let length = dim.next_power_of_two().max(MIN_LENGTH);
        let mut state = 0x0091_d48a_3ab9_a47e_u64;
        let signs = (0..length * ROUNDS).map(|_| if splitmix(&mut state) >> 63 == 0 { 1.0 } else { -1.0 });
        Self { length, signs: signs.collect() }
    }

    /// Rotates and scales by a constant, which affects no sign.
    pub fn rotate(&self, vector: &[f32]) -> Vec<f32> {
        let mut values = vector.to_vec();
        values.resize(self.length, 0.0);
        for signs in self.signs.chunks_exact(self.length) {
            values.iter_mut().zip(signs).for_each(|(value, sign)| *value *= sign);
            hadamard(&mut values);
        }
        values
    }
}

fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// Vigna's splitmix64.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_kept() {
        let rotation = Rotation::new(384);
        let (mut a, mut b) = (vec![0.0; 384], vec![0.0; 384]);
        (a[0], b[0], b[7]) = (1.0, 0.6, 0.8);
        let (a, b) = (rotation.rotate(&a), rotation.rotate(&b));
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let cosine = product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt();
        assert!((cosine - 0.6).abs() < 1e-4, "{cosine}");
    }
}
