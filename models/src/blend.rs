//! The neighbours' vector of a prediction and its blend with the head's vector.

use crate::metrics::{cosine, normalise};

/// Returns the weighted mean of the neighbours' prompts, unit norm, and each neighbour's share of
/// it (the shares sum to 1).
///
/// A neighbour at cosine distance d = 1 - similarity has the weight 1 / (d^6 + 1e-4), the recipe of
/// the competition's prompt-retrieval solutions. Without neighbours the vector is empty.
pub fn knn_vector(neighbours: &[(f32, &[f32])]) -> (Vec<f32>, Vec<f32>) {
    let weights: Vec<f64> = neighbours.iter().map(|(similarity, _)| weight(*similarity)).collect();
    let total: f64 = weights.iter().sum();
    let mut sum = vec![0f64; neighbours.first().map_or(0, |(_, vector)| vector.len())];
    for ((_, vector), weight) in neighbours.iter().zip(&weights) {
        sum.iter_mut().zip(*vector).for_each(|(sum, &x)| *sum += weight / total * f64::from(x));
    }
    let mut mean: Vec<f32> = sum.into_iter().map(|x| x as f32).collect();
    normalise(&mut mean);
    (mean, weights.into_iter().map(|weight| (weight / total) as f32).collect())
}

fn weight(similarity: f32) -> f64 {
    let distance = (1.0 - f64::from(similarity)).max(0.0);
    1.0 / (distance.powi(6) + 1e-4)
}

/// Blends the vectors: `weight_of_head` of the head's and the rest of the neighbours'. Both are
/// normalised first, and the result has unit norm.
pub fn blend(knn: &[f32], head: &[f32], weight_of_head: f32) -> Vec<f32> {
    let (mut knn, mut head) = (knn.to_vec(), head.to_vec());
    normalise(&mut knn);
    normalise(&mut head);
    let mut mixed: Vec<f32> =
        knn.iter().zip(&head).map(|(k, h)| weight_of_head * h + (1.0 - weight_of_head) * k).collect();
    normalise(&mut mixed);
    mixed
}

const GRID: usize = 50;

/// Returns the head's weight (0 to 1, in steps of 0.02) with the highest mean cosine on held-out
/// predictions; for equal cosines, the smallest weight.
pub fn learn_weight<K, H, T>(knn: &[K], head: &[H], truth: &[T]) -> f32
where
    K: AsRef<[f32]>,
    H: AsRef<[f32]>,
    T: AsRef<[f32]>,
{
    let dots: Vec<Dots> = knn
        .iter()
        .zip(head)
        .zip(truth)
        .map(|((knn, head), truth)| Dots::of(knn.as_ref(), head.as_ref(), truth.as_ref()))
        .collect();
    let mut best = (0.0, f64::MIN);
    for step in 0..=GRID {
        let weight = step as f64 / GRID as f64;
        let score: f64 = dots.iter().map(|dots| dots.blended(weight)).sum();
        if score > best.1 + 1e-12 {
            best = (weight, score);
        }
    }
    best.0 as f32
}

/// The three cosines that determine the blend's cosine at every weight.
struct Dots {
    knn_truth: f64,
    head_truth: f64,
    knn_head: f64,
}

impl Dots {
    fn of(knn: &[f32], head: &[f32], truth: &[f32]) -> Self {
        let cosine = |a, b| f64::from(cosine(a, b));
        Self { knn_truth: cosine(knn, truth), head_truth: cosine(head, truth), knn_head: cosine(knn, head) }
    }

    fn blended(&self, weight: f64) -> f64 {
        let rest = 1.0 - weight;
        let norm = weight * weight + rest * rest + 2.0 * weight * rest * self.knn_head;
        (weight * self.head_truth + rest * self.knn_truth) / norm.max(1e-12).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_neighbour_weighs_most() {
        let (mean, weights) = knn_vector(&[(1.0, &[1.0, 0.0]), (0.0, &[0.0, 1.0])]);
        // 1 / 1e-4 against 1 / 1.0001.
        let share = 10_000.0 / (10_000.0 + 1.0 / 1.0001);
        assert!((weights[0] - share).abs() < 1e-6, "{weights:?}");
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((mean[0] - 1.0).abs() < 1e-6 && mean[1] > 0.0);
    }

    #[test]
    fn equal_neighbours_have_equal_weights_and_the_mean_has_unit_norm() {
        let (mean, weights) = knn_vector(&[(0.5, &[1.0, 0.0]), (0.5, &[0.0, 1.0])]);
        assert_eq!(weights, [0.5, 0.5]);
        assert!((mean[0] - 0.5f32.sqrt()).abs() < 1e-6 && mean[0] == mean[1]);
        assert_eq!(knn_vector(&[]), (vec![], vec![]));
    }

    #[test]
    fn parts_are_normalised_before_they_are_blended() {
        let mixed = blend(&[100.0, 0.0], &[0.0, 0.01], 0.5);
        assert!((mixed[0] - mixed[1]).abs() < 1e-6, "{mixed:?}");
        assert_eq!(blend(&[2.0, 0.0], &[0.0, 3.0], 1.0), [0.0, 1.0]);
    }

    #[test]
    fn the_learned_weight_favours_the_correct_vector() {
        let truth = [vec![1.0, 0.0], vec![0.0, 1.0]];
        let wrong = [vec![0.0, 1.0], vec![1.0, 0.0]];
        assert_eq!(learn_weight(&wrong, &truth, &truth), 1.0);
        assert_eq!(learn_weight(&truth, &wrong, &truth), 0.0);
        let (left, right) = ([vec![0.8, 0.6]], [vec![0.8, -0.6]]);
        assert_eq!(learn_weight(&left, &right, &[vec![1.0, 0.0]]), 0.5);
    }

    #[test]
    fn the_learned_score_is_the_blends_cosine() {
        let (knn, head, truth) = ([0.6, 0.8], [1.0, 0.0], [0.28, 0.96]);
        let expected = f64::from(cosine(&blend(&knn, &head, 0.3), &truth));
        assert!((Dots::of(&knn, &head, &truth).blended(0.3) - expected).abs() < 1e-6);
    }
}
