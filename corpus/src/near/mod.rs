//! Near duplicates by cosine, among tens of millions and in one pass. It knows nothing of what the vectors stand for.
//!
//! Each vector is rotated at random; the signs of the result fall into [`TABLES`] keys of a few bits and a signature
//! of 256 (Charikar, "Similarity estimation techniques from rounding algorithms", 2002). Vectors near each other
//! share keys, or keys that differ in one of the bits that were decided most closely (multi-probe: Lv et al., 2007);
//! of those found the ones whose signatures agree are compared as they are. So a hit is always true, to the precision
//! of halves (5e-4), and what is missed is missed because no key agreed. Decisions depend on the vectors and their
//! order alone: not on batches, and not on whether a run was stopped.

mod rotation;
mod vectors;

use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;

use self::rotation::Rotation;
use self::vectors::Vectors;
use crate::CorpusError;

const TABLES: usize = 12;
/// The longest key.
const MAX_KEY_BITS: usize = 20;
/// Keys looked up in a table besides the vector's own: each with one bit flipped.
const PROBES: usize = 6;
const SIGNATURE_WORDS: usize = 4;
const SIGNATURE_BITS: usize = SIGNATURE_WORDS * 64;
/// The signature's signs come after those of the keys.
const SIGNATURE_FROM: usize = 256;
/// Of vectors with the same key so many are looked at, the newest first: no vector costs more than this.
const CHAIN: usize = 512;
/// Of those whose signatures agree so many are compared, the likeliest first.
const COMPARED: usize = 256;
/// Kept vectors' entries are made in pieces of so many.
const PIECE: usize = 1 << 16;
/// The lowest threshold: below it keys tell too little.
const MIN_THRESHOLD: f32 = 0.8;

/// Tells of each vector whether one that was kept before is as near as `threshold`; keeps it if none is.
///
/// Memory: 80 bytes a kept vector and 50 MB, and without a file two bytes a dimension for the vectors themselves.
#[derive(Debug)]
pub struct NearDuplicates {
    threshold: f32,
    dim: usize,
    key_bits: usize,
    /// Signatures may differ in so many bits.
    max_difference: u32,
    rotation: Rotation,
    /// For each table and key the newest vector, plus 1; 0: none.
    heads: Vec<u32>,
    entries: Vec<Vec<Entry>>,
    vectors: Vectors,
}

/// A kept vector's.
#[derive(Clone, Debug)]
struct Entry {
    signature: [u64; SIGNATURE_WORDS],
    /// For each table the vector before it with the same key, as in `heads`.
    next: [u32; TABLES],
}

/// What the signs of a rotated vector say.
#[derive(Debug)]
struct Sketch {
    signature: [u64; SIGNATURE_WORDS],
    keys: [u32; TABLES],
    /// Each key's closest bits, as masks.
    flips: [[u32; PROBES]; TABLES],
}

impl NearDuplicates {
    /// Vectors of `dim` components, kept in memory.
    ///
    /// # Errors
    /// [`CorpusError::Options`] for a threshold that is not between 0.8 and 1.
    pub fn new(threshold: f32, dim: usize) -> Result<Self, CorpusError> {
        Self::over(Vectors::in_memory(dim), threshold, dim)
    }

    /// The same with the vectors in a file, which a later run may go on with: it says how many vectors it had `kept`;
    /// what the file holds beyond them is forgotten. With 0 the file is made.
    ///
    /// # Errors
    /// Those of [`NearDuplicates::new`]; [`CorpusError::Damaged`] for a file with fewer vectors,
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
        // The share of signs in which two vectors at the threshold differ.
        let share = f64::from(threshold).acos() / std::f64::consts::PI;
        let key_bits = ((2.02 / share.max(1e-9)) as usize).clamp(8, MAX_KEY_BITS);
        let bits = SIGNATURE_BITS as f64;
        let max_difference = (bits * share + 4.0 * (bits * share * (1.0 - share)).sqrt()).ceil() as u32 + 1;
        let heads = vec![0; TABLES << key_bits];
        let rotation = Rotation::new(dim);
        Ok(Self { threshold, dim, key_bits, max_difference, rotation, heads, entries: Vec::new(), vectors })
    }

    /// The number (from 0, among those kept) of a kept vector with this or a higher cosine; none: the unit vector is
    /// kept now.
    ///
    /// # Errors
    /// [`CorpusError::Options`] for another dimension, [`CorpusError::Unwritable`] where the file cannot be written.
    pub fn check(&mut self, vector: &[f32]) -> Result<Option<u64>, CorpusError> {
        if vector.len() != self.dim {
            let reason = format!("a vector has {} components, not {}", vector.len(), self.dim);
            return Err(CorpusError::Options(reason));
        }
        // As it will be read again, so that a run which goes on decides the same.
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

    /// How many vectors were kept.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.len() as u64
    }

    /// Puts the kept vectors on the disk, where they are in a file: before a run says how far it is.
    ///
    /// # Errors
    /// [`CorpusError::Unwritable`].
    pub fn sync(&self) -> Result<(), CorpusError> {
        self.vectors.sync()
    }

    fn len(&self) -> usize {
        self.entries.last().map_or(0, |last| (self.entries.len() - 1) * PIECE + last.len())
    }

    fn entry(&self, number: usize) -> &Entry {
        &self.entries[number / PIECE][number % PIECE]
    }

    fn find(&mut self, sketch: &Sketch, vector: &[f32]) -> Result<Option<u64>, CorpusError> {
        let mut other = vec![0.0; self.dim];
        for (_, number) in self.candidates(sketch).into_iter().take(COMPARED) {
            self.vectors.read(number as usize, &mut other)?;
            if dot(vector, &other) >= self.threshold {
                return Ok(Some(u64::from(number)));
            }
        }
        Ok(None)
    }

    /// Kept vectors whose signatures agree, the likeliest first: by the bits in which they differ, then by number.
    fn candidates(&self, sketch: &Sketch) -> Vec<(u32, u32)> {
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

    fn enter(&mut self, sketch: &Sketch) {
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
            last.push(Entry { signature: sketch.signature, next });
        }
    }

    fn sketch(&self, vector: &[f32]) -> Sketch {
        let rotated = self.rotation.rotate(vector);
        let mut sketch =
            Sketch { signature: [0; SIGNATURE_WORDS], keys: [0; TABLES], flips: [[0; PROBES]; TABLES] };
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

/// Masks of the bits whose values are nearest to zero; of equal ones the first.
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

/// In lanes, so that it is vectorised.
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
