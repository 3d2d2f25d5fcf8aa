//! Pictures in parquet files, each PNG as Hugging Face's datasets stores images: a struct of bytes
//! and path. The pictures of the next file wait in a folder until there are enough, so that a
//! killed run neither loses a picture nor draws one twice.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields};
use atomic_write_file::AtomicWriteFile;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use unprompt_generator::Picture;
use unprompt_schemas::Uuid;

use super::folder::{Folder, Metadata};
use crate::JobError;
use crate::error::AnyError;

/// A folder of parquet files, and the pictures in them.
#[derive(Debug)]
pub struct Parquet {
    path: PathBuf,
    /// The pictures of a file.
    rows: usize,
    /// The number of the next file.
    number: usize,
    waiting: Folder,
    /// The pictures in completed files.
    packed: HashSet<Uuid>,
}

impl Parquet {
    pub fn open(path: &Path, rows: usize) -> Result<Self, JobError> {
        let failed = |reason| JobError::PictureFolder { path: path.to_owned(), reason };
        fs::create_dir_all(path).map_err(failed)?;
        let (mut packed, mut number) = (HashSet::new(), 0);
        while file(path, number).is_file() {
            packed.extend(ids(&file(path, number))?);
            // A kill after the file was completed and before this step left its pictures in the
            // folder too.
            remove(&folder(path, number))?;
            number += 1;
        }
        let waiting = Folder::open(&folder(path, number))?;
        Ok(Self { path: path.to_path_buf(), rows, number, waiting, packed })
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

    pub fn write(&mut self, pictures: &[Picture]) -> Result<(), JobError> {
        pictures.iter().try_for_each(|picture| self.waiting.write(picture))
    }

    /// Packs the remaining pictures. No picture may follow.
    pub fn finish(&mut self) -> Result<(), JobError> {
        self.pack()?;
        remove(&folder(&self.path, self.number))
    }

    /// Packs the waiting pictures into a file.
    pub fn pack(&mut self) -> Result<(), JobError> {
        let path = file(&self.path, self.number);
        let packed = pack(&path, &self.waiting).map_err(|reason| JobError::NotPacked {
            path,
            waiting: self.waiting.path().to_owned(),
            reason,
        })?;
        if packed.is_empty() {
            return Ok(());
        }
        self.packed.extend(packed);
        remove(&folder(&self.path, self.number))?;
        self.number += 1;
        self.waiting = Folder::open(&folder(&self.path, self.number))?;
        Ok(())
    }
}

fn file(path: &Path, number: usize) -> PathBuf {
    path.join(format!("part-{number:05}.parquet"))
}

/// Returns the folder where a file's pictures wait. It is hidden, so that readers skip it.
fn folder(path: &Path, number: usize) -> PathBuf {
    path.join(format!(".part-{number:05}"))
}

fn remove(folder: &Path) -> Result<(), JobError> {
    match fs::remove_dir_all(folder) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
            Err(JobError::NotRemoved { path: folder.to_owned(), reason })
        }
        _ => Ok(()),
    }
}

/// The pictures in memory at once.
const BATCH: usize = 64;

/// Writes the folder's pictures into one file and returns their ids. Creates no file without
/// pictures.
fn pack(path: &Path, waiting: &Folder) -> Result<Vec<Uuid>, AnyError> {
    let metadata = waiting.metadata()?;
    if !metadata.is_empty() {
        write(path, waiting.path(), &metadata)?;
    }
    Ok(metadata.iter().map(|line| line.image_id).collect())
}

fn write(path: &Path, folder: &Path, metadata: &[Metadata]) -> Result<(), AnyError> {
    let file = AtomicWriteFile::open(path)?;
    let empty = batch(folder, &[])?;
    // The lowest level, because PNG is already compressed.
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let mut writer = ArrowWriter::try_new(file, empty.schema(), Some(properties))?;
    for rows in metadata.chunks(BATCH) {
        writer.write(&batch(folder, rows)?)?;
        writer.flush()?;
    }
    Ok(writer.into_inner()?.commit()?)
}

fn batch(folder: &Path, rows: &[Metadata]) -> Result<RecordBatch, AnyError> {
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

/// Reads the ids of a file's pictures.
fn ids(path: &Path) -> Result<Vec<Uuid>, JobError> {
    read_ids(path).map_err(|reason| JobError::NotPictures { path: path.to_owned(), reason })
}

fn read_ids(path: &Path) -> Result<Vec<Uuid>, AnyError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["image_id"]);
    let mut ids = Vec::new();
    for batch in builder.with_projection(columns).build()? {
        let batch = batch?;
        let column = batch.column_by_name("image_id").and_then(|c| c.as_any().downcast_ref::<StringArray>());
        let column = column.ok_or("it has no text column image_id")?;
        ids.extend(column.iter().flatten().filter_map(|id| id.parse::<Uuid>().ok()));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::super::folder::tests::picture;
    use super::*;

    #[test]
    fn pictures_wait_for_a_full_file_and_are_not_duplicated_after_a_kill() {
        let target = tempfile::tempdir().unwrap();
        let mut parquet = Parquet::open(target.path(), 3).unwrap();
        let pictures: Vec<Picture> = (1..=3).map(picture).collect();
        parquet.write(&pictures[..2]).unwrap();
        assert!(!parquet.is_full());
        drop(parquet);
        let mut parquet = Parquet::open(target.path(), 3).unwrap();
        assert!(parquet.has(pictures[1].image_id) && !parquet.has(pictures[2].image_id));
        parquet.write(&pictures).unwrap();
        assert!(parquet.is_full());
        // As if killed after the file was completed, while its pictures still wait.
        pack(&file(target.path(), 0), &parquet.waiting).unwrap();
        drop(parquet);
        let mut parquet = Parquet::open(target.path(), 3).unwrap();
        assert!(parquet.has(pictures[0].image_id) && parquet.waiting.len() == 0);
        parquet.write(&[picture(4)]).unwrap();
        parquet.pack().unwrap();
        parquet.finish().unwrap();
        let counts: Vec<usize> =
            (0..2).map(|number| ids(&file(target.path(), number)).unwrap().len()).collect();
        assert_eq!(counts, [3, 1]);
        let left = fs::read_dir(target.path()).unwrap().count();
        assert_eq!(left, 2, "only the files are left");
    }

    #[test]
    fn a_file_that_is_not_parquet_is_refused_and_says_what_to_do() {
        let target = tempfile::tempdir().unwrap();
        fs::write(file(target.path(), 0), "no parquet").unwrap();
        let refused = Parquet::open(target.path(), 3).unwrap_err().to_string();
        assert!(refused.contains("is not a file of pictures") && refused.contains("--out"), "{refused}");
    }
}
