//! Near duplicates by cosine, among tens of millions of vectors in one pass. It knows nothing of
//! what the vectors represent.
//!
//! Each vector is rotated at random. The signs of the result form [`TABLES`] keys of a few bits and
//! a signature of 256 bits (Charikar, "Similarity estimation techniques from rounding algorithms",
//! 2002). Near vectors share a key, or have keys that differ in one of the bits closest to a sign
//! change (multi-probe: Lv et al., 2007). Of the vectors found this way, those with similar
//! signatures are compared in full.
//!
//! A hit is therefore always true, within the precision of half floats (5e-4). A near duplicate is
//! missed only if it is not among the vectors looked at. Decisions depend on the vectors and their
//! order alone: not on batches, nor on whether a run was stopped.

mod rotation;
mod vectors;

use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;

use self::rotation::Rotation;
use self::vectors::Vectors;
use crate::CorpusError;

const TABLES: usize = 12;
/// The longest key, in bits.
const MAX_KEY_BITS: usize = 20;
/// Further keys looked up in each table, each with one bit of the vector's own key flipped.
const PROBES: usize = 6;
const SIGNATURE_WORDS: usize = 4;
const SIGNATURE_BITS: usize = SIGNATURE_WORDS * 64;
/// The signature uses the signs after those of the keys.
const SIGNATURE_FROM: usize = 256;
/// The most vectors examined per key, newest first. It bounds the cost of a vector.
const CHAIN: usize = 512;
/// The most vectors compared in full, most similar signature first.
const COMPARED: usize = 256;
/// Entries of kept vectors are allocated in pieces of this many.
const PIECE: usize = 1 << 16;
/// The lowest threshold: below it, keys discriminate too little.
const MIN_THRESHOLD: f32 = 0.8;

/// Decides for each vector whether an earlier kept vector is as near as `threshold`; keeps it if
/// none is.
///
/// Memory: 80 bytes per kept vector plus 50 MB; without a file also two bytes per dimension for the
/// vectors themselves.
#[derive(Debug)]
pub struct NearDuplicates {
    threshold: f32,
    dim: usize,
    key_bits: usize,
    /// The most bits in which signatures may differ.
    max_difference: u32,
    rotation: Rotation,
    /// For each table and key the newest vector, plus 1; 0 for none.
    heads: Vec<u32>,
    entries: Vec<Vec<NearEntry>>,
    vectors: Vectors,
}

/// The index entry of a kept vector.
#[derive(Clone, Debug)]
struct NearEntry {
    signature: [u64; SIGNATURE_WORDS],
    /// For each table the previous vector with the same key, as in `heads`.
    next: [u32; TABLES],
}

/// The signs of a rotated vector, as a signature and keys.
#[derive(Debug)]
struct VectorSketch {
    signature: [u64; SIGNATURE_WORDS],
    keys: [u32; TABLES],
    /// Masks of the bits of each key that are closest to a sign change.
    flips: [[u32; PROBES]; TABLES],
}

impl NearDuplicates {
    /// Creates a search for vectors of `dim` components, kept in memory.
    ///
    /// # Errors
    /// [`CorpusError::Options`] for a threshold that is not between 0.8 and 1.
    pub fn new(threshold: f32, dim: usize) -> Result<Self, CorpusError> {
        Self::over(Vectors::in_memory(dim), threshold, dim)
    }

    /// Creates a search that keeps the vectors in a file, so that a later run can resume it.
    ///
    /// `kept` is the number of vectors kept so far; vectors in the file beyond it are discarded.
    /// With 0 the file is created or emptied.
    ///
    /// # Errors
    /// Those of [`NearDuplicates::new`]; [`CorpusError::Checkpoint`] for a file with fewer vectors,
    /// [`CorpusError::Unwritable`].
    pub fn in_file(threshold: f32, dim: usize, path: &Path, kept: u64) -> Result<Self, CorpusError> {
        let mut all = Self::over(Vectors::in_file(dim, path, kept)?, threshold, dim)?;
        let mut vector = vec![0.0; dim];
        for number in 0..kept {
            all.vectors.read(number as usize, &mut vector)?;
            let sketch = all.sketch(&vector);
            all.enter(&sketch);
        }
        Ok(all)
    }

    fn over(vectors: Vectors, threshold: f32, dim: usize) -> Result<Self, CorpusError> {
        if !(MIN_THRESHOLD..=1.0).contains(&threshold) || dim == 0 {
            let reason =
                format!("near duplicates are those with a cosine of {MIN_THRESHOLD} to 1, not {threshold}");
            return Err(CorpusError::Options(reason));
        }
        // The expected share of differing signs between two vectors at the threshold.
        let share = f64::from(threshold).acos() / std::f64::consts::PI;
        let key_bits = ((2.02 / share.max(1e-9)) as usize).clamp(8, MAX_KEY_BITS);
        let bits = SIGNATURE_BITS as f64;
        let max_difference = (bits * share + 4.0 * (bits * share * (1.0 - share)).sqrt()).ceil() as u32 + 1;
        let heads = vec![0; TABLES << key_bits];
        let rotation = Rotation::new(dim);
        Ok(Self { threshold, dim, key_bits, max_difference, rotation, heads, entries: Vec::new(), vectors })
    }

    /// Returns the number of a kept vector (from 0) whose cosine reaches the threshold. If there is
    /// none, keeps the vector, which must have unit length.
    ///
    /// # Errors
    /// [`CorpusError::Options`] for another dimension, [`CorpusError::Unwritable`] if the file
    /// cannot be written.
    pub fn check(&mut self, vector: &[f32]) -> Result<Option<u64>, CorpusError> {
        if vector.len() != self.dim {
            let reason = format!("a vector has {} components, not {}", vector.len(), self.dim);
            return Err(CorpusError::Options(reason));
        }
        // Rounded as it will be read again, so that a resumed run decides the same.
        let halves = vector.iter().map(|&value| f16::from_f32(value)).collect::<Vec<_>>();
        let mut rounded = vec![0.0; self.dim];
        halves.convert_to_f32_slice(&mut rounded);
        let sketch = self.sketch(&rounded);
        let found = self.find(&sketch, &rounded)?;
        if found.is_none() {
            self.vectors.push(&halves)?;
            self.enter(&sketch);
        }
        Ok(found)
    }

    /// Returns the number of kept vectors.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.len() as u64
    }

    /// Flushes the kept vectors in a file to the disk. Call it before a run saves its checkpoint.
    ///
    /// # Errors
    /// [`CorpusError::Unwritable`].
    pub fn sync(&self) -> Result<(), CorpusError> {
        self.vectors.sync()
    }

    fn len(&self) -> usize {
        self.entries.last().map_or(0, |last| (self.entries.len() - 1) * PIECE + last.len())
    }

    fn entry(&self, number: usize) -> &NearEntry {
        &self.entries[number / PIECE][number % PIECE]
    }

    fn find(&mut self, sketch: &VectorSketch, vector: &[f32]) -> Result<Option<u64>, CorpusError> {
        let mut other = vec![0.0; self.dim];
        for (_, number) in self.candidates(sketch).into_iter().take(COMPARED) {
            self.vectors.read(number as usize, &mut other)?;
            if dot(vector, &other) >= self.threshold {
                return Ok(Some(u64::from(number)));
            }
        }
        Ok(None)
    }

    /// Returns the kept vectors with similar signatures, sorted by the number of differing bits,
    /// then by number.
    fn candidates(&self, sketch: &VectorSketch) -> Vec<(u32, u32)> {
        let mut candidates = Vec::new();
        for table in 0..TABLES {
            let key = sketch.keys[table];
            for flip in std::iter::once(0).chain(sketch.flips[table]) {
                let mut next = self.heads[(table << self.key_bits) + (key ^ flip) as usize];
                for _ in 0..CHAIN {
                    let Some(number) = next.checked_sub(1) else { break };
                    let entry = self.entry(number as usize);
                    let differ = difference(&entry.signature, &sketch.signature);
                    if differ <= self.max_difference {
                        candidates.push((differ, number));
                    }
                    next = entry.next[table];
                }
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }

    fn enter(&mut self, sketch: &VectorSketch) {
        let number = self.len() as u32;
        let mut next = [0; TABLES];
        for (table, key) in sketch.keys.into_iter().enumerate() {
            let head = &mut self.heads[(table << self.key_bits) + key as usize];
            next[table] = std::mem::replace(head, number + 1);
        }
        if self.entries.last().is_none_or(|last| last.len() == PIECE) {
            self.entries.push(Vec::with_capacity(if self.entries.is_empty() { 0 } else { PIECE }));
        }
        if let Some(last) = self.entries.last_mut() {
            last.push(NearEntry { signature: sketch.signature, next });
        }
    }

    fn sketch(&self, vector: &[f32]) -> VectorSketch {
        let rotated = self.rotation.rotate(vector);
        let mut sketch =
            VectorSketch { signature: [0; SIGNATURE_WORDS], keys: [0; TABLES], flips: [[0; PROBES]; TABLES] };
        for (word, values) in sketch.signature.iter_mut().zip(rotated[SIGNATURE_FROM..].chunks_exact(64)) {
            *word = values.iter().fold(0, |word, value| word << 1 | u64::from(*value > 0.0));
        }
        for (table, values) in rotated.chunks_exact(self.key_bits).take(TABLES).enumerate() {
            sketch.keys[table] = values.iter().rev().fold(0, |key, value| key << 1 | u32::from(*value > 0.0));
            sketch.flips[table] = closest(values);
        }
        sketch
    }
}

/// Returns masks of the bits whose values are nearest to zero; of equal values, the first.
fn closest(values: &[f32]) -> [u32; PROBES] {
    let mut taken = 0_u32;
    std::array::from_fn(|_| {
        let free = values.iter().enumerate().filter(|(bit, _)| taken & (1 << bit) == 0);
        let nearest = free.min_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
        let mask = nearest.map_or(0, |(bit, _)| 1 << bit);
        taken |= mask;
        mask
    })
}

fn difference(a: &[u64; SIGNATURE_WORDS], b: &[u64; SIGNATURE_WORDS]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// Sums in lanes, so that the compiler vectorises it.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (a_parts, b_parts) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_parts.zip(b_parts) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}
