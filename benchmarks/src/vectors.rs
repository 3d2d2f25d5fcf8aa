//! Vectors of many prompts, kept in files so that an index can be measured again without embedding
//! again.
//!
//! A file holds consecutive rows of little-endian f16 and nothing else:
//!
//! | file | row | contents |
//! |---|---|---|
//! | `minilm.f16` | 384 | real MiniLM vectors of distinct prompts of the grammar, in fixed order |
//! | `clip.f16` | 512 | made from them by [`Cone`]: distributed like a CLIP text tower's vectors |
//! | `minilm-queries.f16` | 384 | MiniLM vectors of held-out prompts |
//! | `clip-queries.f16` | 512 | made from those: distributed like a CLIP image tower's vectors |
//!
//! A longer file also serves a request for fewer vectors; a shorter one is extended.
//!
//! If embedding would take too long, a separate folder holds the vectors of another one followed by
//! mixtures of them: see [`Mixture`].

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unprompt_models::minilm::MiniLm;
use unprompt_tiny_world::{Grammar, Split};

use crate::cone::{CLIP_DIM, Cone, Tower, unit};

/// The number of queries in a file.
pub const QUERIES: usize = 2_000;
/// The seed of the grammar's prompts.
const SEED: u64 = 1;
/// Texts embedded, and rows written, at once.
const SLAB: usize = 4_096;
/// Rows from which the cone's centre is computed.
const MIDDLE_OF: usize = 10_000;

/// Rows of one length in a file.
#[derive(Debug, Clone)]
pub struct Rows {
    path: PathBuf,
    dim: usize,
}

impl Rows {
    fn new(folder: &Path, name: &str, dim: usize) -> Self {
        Self { path: folder.join(format!("{name}.f16")), dim }
    }

    /// The number of complete rows in the file.
    pub fn count(&self) -> usize {
        let bytes = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        bytes as usize / self.row_bytes()
    }

    /// Reads `count` rows from `first` on.
    pub fn read(&self, first: usize, count: usize) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut file = File::open(&self.path).with_context(|| self.path.display().to_string())?;
        file.seek(SeekFrom::Start((first * self.row_bytes()) as u64))?;
        let mut bytes = vec![0; count * self.row_bytes()];
        file.read_exact(&mut bytes).with_context(|| format!("{} is too short", self.path.display()))?;
        let value = |two: &[u8]| f16::from_le_bytes([two[0], two[1]]).to_f32();
        Ok(bytes.chunks_exact(self.row_bytes()).map(|row| row.chunks_exact(2).map(value).collect()).collect())
    }

    /// Opens the file for writing after its last complete row.
    fn append(&self) -> anyhow::Result<BufWriter<File>> {
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        file.set_len((self.count() * self.row_bytes()) as u64)?;
        file.seek(SeekFrom::End(0))?;
        Ok(BufWriter::new(file))
    }

    fn row_bytes(&self) -> usize {
        2 * self.dim
    }
}

/// The four files of a folder.
#[derive(Debug, Clone)]
pub struct Vectors {
    pub minilm: Rows,
    pub clip: Rows,
    pub minilm_queries: Rows,
    pub clip_queries: Rows,
}

impl Vectors {
    pub fn of(folder: &Path) -> Self {
        Self {
            minilm: Rows::new(folder, "minilm", MiniLm::DIMS),
            clip: Rows::new(folder, "clip", CLIP_DIM),
            minilm_queries: Rows::new(folder, "minilm-queries", MiniLm::DIMS),
            clip_queries: Rows::new(folder, "clip-queries", CLIP_DIM),
        }
    }

    /// Creates the missing vectors, up to `count`, and the missing queries; `progress` receives the
    /// number of rows so far.
    pub fn fill(
        folder: &Path,
        count: usize,
        load: impl FnOnce() -> anyhow::Result<MiniLm>,
        mut progress: impl FnMut(usize),
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let vectors = Self::of(folder);
        if vectors.minilm.count() < count || vectors.minilm_queries.count() < QUERIES {
            let mut minilm = load()?;
            check_model(folder, &format!("{}, prompts of seed {SEED}", minilm.revision()))?;
            embed(&mut minilm, &vectors.minilm_queries, Split::HeldOut, QUERIES, |_| {})?;
            embed(&mut minilm, &vectors.minilm, Split::Train, count, &mut progress)?;
        }
        vectors.fill_clip(count)?;
        Ok(vectors)
    }

    /// Like [`Self::fill`], with rows from `mixture` instead of embedding.
    pub fn fill_mixed(
        folder: &Path,
        mixture: &Mixture,
        count: usize,
        progress: impl FnMut(usize),
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let vectors = Self::of(folder);
        check_model(folder, &mixture.model)?;
        std::fs::copy(&mixture.of.minilm_queries.path, &vectors.minilm_queries.path)?;
        mixture.write(&vectors.minilm, count, progress)?;
        vectors.fill_clip(count)?;
        Ok(vectors)
    }

    fn fill_clip(&self, count: usize) -> anyhow::Result<()> {
        let cone = Cone::around(&self.minilm.read(0, MIDDLE_OF.min(count))?);
        bend(&cone, Tower::Image, &self.minilm_queries, &self.clip_queries, QUERIES)?;
        bend(&cone, Tower::Text, &self.minilm, &self.clip, count)
    }
}

/// The weight of the second vector in a mixture.
const SECOND: f32 = 0.5;

/// Embedded vectors, and any number of mixtures after them. A mixture has the direction of one
/// embedded vector, each in turn, plus half of a random other one. It is near the first one, like a
/// prompt with one part changed.
#[derive(Debug)]
pub struct Mixture {
    model: String,
    of: Vectors,
    embedded: usize,
}

impl Mixture {
    /// Mixes the first `embedded` vectors of a folder, which must have that many.
    pub fn of(folder: &Path, embedded: usize) -> anyhow::Result<Self> {
        let of = Vectors::of(folder);
        if of.minilm.count() < embedded || embedded == 0 {
            bail!("{} has {} vectors, not {embedded}", folder.display(), of.minilm.count());
        }
        let model = std::fs::read_to_string(folder.join("model"))?;
        Ok(Self { model: format!("{}, mixtures after {embedded}", model.trim()), of, embedded })
    }

    fn write(&self, rows: &Rows, count: usize, mut progress: impl FnMut(usize)) -> anyhow::Result<()> {
        let mut done = rows.count();
        if done >= count {
            return Ok(());
        }
        let mut file = rows.append()?;
        let embedded = self.of.minilm.read(0, self.embedded)?;
        while done < count {
            let slab: Vec<Vec<f32>> =
                (done..count.min(done + SLAB)).map(|row| self.row(&embedded, row)).collect();
            write(&mut file, &slab)?;
            done += slab.len();
            progress(done);
        }
        Ok(())
    }

    fn row(&self, embedded: &[Vec<f32>], row: usize) -> Vec<f32> {
        let first = &embedded[row % self.embedded];
        if row < self.embedded {
            return first.clone();
        }
        let second = &embedded[ChaCha8Rng::seed_from_u64(row as u64).random_range(0..self.embedded)];
        unit(first.iter().zip(second).map(|(first, second)| first + SECOND * second).collect())
    }
}

/// Distinct prompts of a split in a fixed order: the same as from `unprompt prompts sample
/// --distinct`.
pub fn prompts(split: Split) -> impl Iterator<Item = String> {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut seen = HashSet::new();
    let texts = Grammar::new(SEED).scenes(split).map(|scene| scene.prompt());
    texts.filter(move |text| seen.insert(hasher.hash_one(text)))
}

/// Refuses to mix vectors of different models or prompts in one file, which would be worthless.
fn check_model(folder: &Path, model: &str) -> anyhow::Result<()> {
    let path = folder.join("model");
    match std::fs::read_to_string(&path) {
        Ok(known) if known.trim() == model => Ok(()),
        Ok(known) => bail!("{} holds vectors of {known}, this is {model}; remove it", folder.display()),
        Err(_) => Ok(std::fs::write(path, model)?),
    }
}

fn embed(
    minilm: &mut MiniLm,
    rows: &Rows,
    split: Split,
    count: usize,
    mut progress: impl FnMut(usize),
) -> anyhow::Result<()> {
    let mut done = rows.count();
    if done >= count {
        return Ok(());
    }
    let mut file = rows.append()?;
    let mut texts = prompts(split).skip(done).take(count - done);
    loop {
        let slab: Vec<String> = texts.by_ref().take(SLAB).collect();
        if slab.is_empty() {
            break;
        }
        let texts: Vec<&str> = slab.iter().map(String::as_str).collect();
        write(&mut file, &minilm.embed(&texts)?)?;
        done += slab.len();
        progress(done);
    }
    if done < count {
        bail!("the grammar has {done} distinct prompts in that split, not {count}");
    }
    Ok(())
}

fn bend(cone: &Cone, tower: Tower, from: &Rows, to: &Rows, count: usize) -> anyhow::Result<()> {
    let mut at = to.count();
    if at >= count {
        return Ok(());
    }
    let mut file = to.append()?;
    while at < count {
        let slab = from.read(at, SLAB.min(count - at))?;
        write(&mut file, &cone.bend(tower, at, &slab))?;
        at += slab.len();
    }
    Ok(())
}

/// Writes whole slabs, so that the length of a file shows a truncated one.
fn write(file: &mut BufWriter<File>, rows: &[Vec<f32>]) -> anyhow::Result<()> {
    for value in rows.iter().flatten() {
        file.write_all(&f16::from_f32(*value).to_le_bytes())?;
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three vectors in place of embedded ones.
    fn embedded(folder: &Path) -> Vectors {
        let vectors = Vectors::of(folder);
        let axis = |at: usize| (0..MiniLm::DIMS).map(|i| f32::from(u8::from(i == at))).collect();
        write(&mut vectors.minilm.append().unwrap(), &[axis(0), axis(1), axis(2)]).unwrap();
        write(&mut vectors.minilm_queries.append().unwrap(), &[axis(3)]).unwrap();
        std::fs::write(folder.join("model"), "a model").unwrap();
        vectors
    }

    #[test]
    fn a_mixture_is_near_its_first_vector_and_a_partial_file_is_continued() {
        let (from, whole, parts) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let three = embedded(from.path()).minilm.read(0, 3).unwrap();
        let mixture = Mixture::of(from.path(), 3).unwrap();
        let rows = |folder: &Path, count| {
            check_model(folder, &mixture.model).unwrap();
            let rows = Rows::new(folder, "minilm", MiniLm::DIMS);
            mixture.write(&rows, count, |_| {}).unwrap();
            rows.read(0, count).unwrap()
        };
        let mixed = rows(whole.path(), 30);
        assert_eq!(mixed[..3], three);
        for (row, vector) in mixed.iter().enumerate().skip(3) {
            let norm: f32 = vector.iter().map(|value| value * value).sum();
            assert!((norm - 1.0).abs() < 1e-2, "{norm}");
            assert!(vector[row % 3] > 0.89, "{:?}", &vector[..3]);
        }
        rows(parts.path(), 10);
        assert_eq!(rows(parts.path(), 30), mixed);
    }

    #[test]
    fn a_folder_of_other_vectors_is_refused() {
        let (from, mixed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        embedded(from.path());
        std::fs::write(mixed.path().join("model"), "a model").unwrap();
        let error =
            Vectors::fill_mixed(mixed.path(), &Mixture::of(from.path(), 2).unwrap(), 5, |_| {}).unwrap_err();
        assert!(error.to_string().contains("mixtures after 2"), "{error}");
        assert!(Mixture::of(from.path(), 4).unwrap_err().to_string().contains("3 vectors, not 4"));
    }
}
