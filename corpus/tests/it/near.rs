//! Near duplicates are nearly always found, never false, and independent of interruptions.

use unprompt_corpus::CorpusError;
use unprompt_corpus::near::NearDuplicates;

use crate::samples::folder;

const DIM: usize = 384;

/// Reproducible numbers, approximately normal.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.uniform()).sum::<f32>() - 3.0
    }

    fn unit(&mut self) -> Vec<f32> {
        unit((0..DIM).map(|_| self.normal()).collect())
    }

    /// Returns a vector whose cosine with `centre` is `cosine`.
    fn near(&mut self, centre: &[f32], cosine: f32) -> Vec<f32> {
        let other = self.unit();
        let along = dot(centre, &other);
        let across = unit(other.iter().zip(centre).map(|(other, centre)| other - along * centre).collect());
        let sine = (1.0 - cosine * cosine).sqrt();
        centre.iter().zip(&across).map(|(centre, across)| cosine * centre + sine * across).collect()
    }
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = dot(&vector, &vector).sqrt();
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Returns vectors in clusters, like those of prompts: many are near an earlier one.
fn cloud(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut noise = Noise::new(seed);
    let centres: Vec<_> = (0..1 + count / 20).map(|_| noise.unit()).collect();
    (0..count)
        .map(|at| {
            let cosine = 0.9 + 0.1 * noise.uniform();
            let centre = (noise.uniform() * centres.len() as f32) as usize;
            if at % 2 == 0 {
                noise.unit()
            } else {
                noise.near(&centres[centre.min(centres.len() - 1)], cosine)
            }
        })
        .collect()
}

#[test]
fn nearly_all_near_duplicates_are_found_without_false_positives() {
    let threshold = 0.95;
    let mut near = NearDuplicates::new(threshold, DIM).unwrap();
    let mut kept: Vec<Vec<f32>> = Vec::new();
    let (mut found, mut missed) = (0, 0);
    for vector in cloud(4_000, 1) {
        let best = kept.iter().map(|other| dot(other, &vector)).fold(-1.0, f32::max);
        match near.check(&vector).unwrap() {
            Some(other) => {
                let cosine = dot(&kept[other as usize], &vector);
                assert!(cosine >= threshold - 1e-3, "{cosine} is not a near duplicate");
                found += 1;
            }
            None => {
                missed += i32::from(best >= threshold + 1e-3);
                kept.push(vector);
            }
        }
    }
    assert_eq!(near.kept() as usize, kept.len());
    assert!(found > 100, "{found}");
    let recall = f64::from(found) / f64::from(found + missed);
    assert!(recall >= 0.98, "recall {recall}: {found} found, {missed} missed");
}

#[test]
fn nearly_all_duplicates_just_above_the_threshold_are_found() {
    let mut noise = Noise::new(5);
    let mut near = NearDuplicates::new(0.95, DIM).unwrap();
    let centres: Vec<_> = (0..2_000).map(|_| noise.unit()).collect();
    for centre in &centres {
        assert_eq!(near.check(centre).unwrap(), None);
    }
    let found =
        centres.iter().filter(|centre| near.check(&noise.near(centre, 0.952)).unwrap().is_some()).count();
    assert!(found >= 1_950, "{found} of 2000");
    let identical = centres.iter().filter(|centre| near.check(centre).unwrap().is_some()).count();
    assert_eq!(identical, 2_000, "the same vector is always found");
}

#[test]
fn a_run_resumed_from_its_file_decides_like_an_uninterrupted_one() {
    let folder = folder();
    let path = folder.path().join("kept.f16");
    let vectors = cloud(1_200, 3);
    let mut whole = NearDuplicates::new(0.95, DIM).unwrap();
    let decided: Vec<_> = vectors.iter().map(|vector| whole.check(vector).unwrap()).collect();

    let mut first = NearDuplicates::in_file(0.95, DIM, &path, 0).unwrap();
    let mut again: Vec<_> = vectors[..700].iter().map(|vector| first.check(vector).unwrap()).collect();
    let acknowledged = first.kept();
    first.sync().unwrap();
    // Vectors kept after the state was saved are forgotten.
    for vector in &vectors[700..800] {
        first.check(vector).unwrap();
    }
    drop(first);
    let mut second = NearDuplicates::in_file(0.95, DIM, &path, acknowledged).unwrap();
    again.extend(vectors[700..].iter().map(|vector| second.check(vector).unwrap()));
    assert_eq!(again, decided);
    assert!(decided.iter().flatten().count() > 30);
}

#[test]
fn missing_vectors_bad_thresholds_and_wrong_dimensions_are_refused() {
    let folder = folder();
    let path = folder.path().join("kept.f16");
    let error = NearDuplicates::in_file(0.95, DIM, &path, 3).unwrap_err();
    assert!(matches!(error, CorpusError::Checkpoint { .. }), "{error}");
    for threshold in [0.5, 1.1, f32::NAN] {
        assert!(NearDuplicates::new(threshold, DIM).is_err(), "{threshold}");
    }
    let mut near = NearDuplicates::new(0.9, DIM).unwrap();
    assert!(near.check(&[1.0]).unwrap_err().to_string().contains("384"));
}
