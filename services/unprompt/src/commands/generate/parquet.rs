//! Pictures in parquet files, each with its PNG as Hugging Face's datasets keeps images: a struct of bytes and path. Those of the file
//! that is not full yet wait in a folder, so that a killed run loses none and draws none twice.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields};
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use unprompt_generator::Picture;
use uuid::Uuid;

use super::folder::{Folder, Metadata};

pub struct Parquet {
    path: PathBuf,
    /// Pictures in a file.
    rows: usize,
    /// The number of the file that is packed next.
    number: usize,
    waiting: Folder,
    /// Those in files.
    packed: HashSet<Uuid>,
}

impl Parquet {
    pub fn open(path: &Path, rows: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("pictures cannot be kept in {}", path.display()))?;
        let (mut packed, mut number) = (HashSet::new(), 0);
        while file(path, number).is_file() {
            packed.extend(ids(&file(path, number))?);
            // A kill between the file's completion and this left them twice.
            remove(&folder(path, number))?;
            number += 1;
        }
        Ok(Self {
            path: path.to_path_buf(),
            rows,
            number,
            waiting: Folder::open(&folder(path, number))?,
            packed,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has(&self, id: Uuid) -> bool {
        self.packed.contains(&id) || self.waiting.has(id)
    }

    pub fn is_full(&self) -> bool {
        self.waiting.len() >= self.rows
    }

    pub fn write(&mut self, pictures: &[Picture]) -> anyhow::Result<()> {
        pictures.iter().try_for_each(|picture| self.waiting.write(picture))
    }

    /// Packs the rest: none will follow.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.pack()?;
        remove(&folder(&self.path, self.number))
    }

    /// Makes a file of those that wait.
    pub fn pack(&mut self) -> anyhow::Result<()> {
        let metadata = self.waiting.metadata()?;
        if metadata.is_empty() {
            return Ok(());
        }
        let path = file(&self.path, self.number);
        let told = || {
            format!(
                "{} cannot be written; the pictures wait in {}",
                path.display(),
                self.waiting.path().display()
            )
        };
        write(&path, self.waiting.path(), &metadata).with_context(told)?;
        self.packed.extend(metadata.iter().map(|line| line.image_id));
        remove(&folder(&self.path, self.number))?;
        self.number += 1;
        self.waiting = Folder::open(&folder(&self.path, self.number))?;
        Ok(())
    }
}

fn file(path: &Path, number: usize) -> PathBuf {
    path.join(format!("part-{number:05}.parquet"))
}

/// Where the pictures of a file wait; hidden, so that readers of the folder pass over it.
fn folder(path: &Path, number: usize) -> PathBuf {
    path.join(format!(".part-{number:05}"))
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Pictures in memory at once.
const BATCH: usize = 64;

fn write(path: &Path, folder: &Path, metadata: &[Metadata]) -> anyhow::Result<()> {
    let temporary = path.with_extension("parquet.part");
    let file = File::create(&temporary)?;
    let empty = batch(folder, &[])?;
    // PNG is packed already.
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let mut writer = ArrowWriter::try_new(file, empty.schema(), Some(properties))?;
    for rows in metadata.chunks(BATCH) {
        writer.write(&batch(folder, rows)?)?;
        writer.flush()?;
    }
    writer.into_inner()?.sync_all()?;
    fs::rename(temporary, path)?;
    Ok(())
}

fn batch(folder: &Path, rows: &[Metadata]) -> anyhow::Result<RecordBatch> {
    let pngs = rows.iter().map(|row| fs::read(folder.join(&row.file_name))).collect::<Result<Vec<_>, _>>()?;
    let strings = |of: &dyn Fn(&Metadata) -> String| -> ArrayRef {
        Arc::new(rows.iter().map(|row| Some(of(row))).collect::<StringArray>())
    };
    let bytes: ArrayRef = Arc::new(pngs.iter().map(Some).collect::<BinaryArray>());
    let fields = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let image = StructArray::try_new(fields, vec![bytes, strings(&|row| row.file_name.clone())], None)?;
    Ok(RecordBatch::try_from_iter([
        ("image", Arc::new(image) as ArrayRef),
        ("prompt", strings(&|row| row.prompt.clone())),
        ("seed", Arc::new(rows.iter().map(|row| row.seed).collect::<Int64Array>())),
        ("image_id", strings(&|row| row.image_id.to_string())),
        ("prompt_id", strings(&|row| row.prompt_id.to_string())),
        ("model", strings(&|row| row.model.clone())),
        ("parameters", strings(&|row| row.parameters.clone())),
    ])?)
}

/// The ids of a file's pictures.
fn ids(path: &Path) -> anyhow::Result<Vec<Uuid>> {
    let told = || format!("{} is no file of pictures; move it away or choose another --out", path.display());
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).with_context(told)?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["image_id"]);
    let mut ids = Vec::new();
    for batch in builder.with_projection(columns).build().with_context(told)? {
        let batch = batch.with_context(told)?;
        let column = batch.column_by_name("image_id").and_then(|c| c.as_any().downcast_ref::<StringArray>());
        let column = column.with_context(told)?;
        ids.extend(column.iter().flatten().filter_map(|id| id.parse::<Uuid>().ok()));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::super::folder::tests::picture;
    use super::*;

    #[test]
    fn pictures_wait_until_a_file_is_full_and_none_is_twice_after_a_kill() {
        let place = tempfile::tempdir().unwrap();
        let mut parquet = Parquet::open(place.path(), 3).unwrap();
        let pictures: Vec<Picture> = (1..=3).map(picture).collect();
        parquet.write(&pictures[..2]).unwrap();
        assert!(!parquet.is_full());
        drop(parquet);
        let mut parquet = Parquet::open(place.path(), 3).unwrap();
        assert!(parquet.has(pictures[1].image_id) && !parquet.has(pictures[2].image_id));
        parquet.write(&pictures).unwrap();
        assert!(parquet.is_full());
        // As if killed when the file was complete and its pictures still waited.
        let metadata = parquet.waiting.metadata().unwrap();
        write(&file(place.path(), 0), parquet.waiting.path(), &metadata).unwrap();
        drop(parquet);
        let mut parquet = Parquet::open(place.path(), 3).unwrap();
        assert!(parquet.has(pictures[0].image_id) && parquet.waiting.len() == 0);
        parquet.write(&[picture(4)]).unwrap();
        parquet.pack().unwrap();
        parquet.finish().unwrap();
        let counts: Vec<usize> =
            (0..2).map(|number| ids(&file(place.path(), number)).unwrap().len()).collect();
        assert_eq!(counts, [3, 1]);
        let left = fs::read_dir(place.path()).unwrap().count();
        assert_eq!(left, 2, "only the files are left");
    }
}
