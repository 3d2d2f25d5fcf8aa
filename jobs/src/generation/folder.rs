//! A folder of PNG files with a metadata.jsonl, as Hugging Face's datasets reads a folder of
//! images. It must not know which prompts are still to be drawn.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unprompt_generator::Picture;
use unprompt_schemas::Uuid;

use crate::JobError;

/// A line of metadata.jsonl.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Metadata {
    pub file_name: String,
    pub prompt: String,
    pub seed: i64,
    pub image_id: Uuid,
    pub prompt_id: Uuid,
    /// `name@revision` of the model.
    pub model: String,
    /// The parameters of the generation.
    pub parameters: String,
}

impl Metadata {
    fn of(picture: &Picture) -> Self {
        Self {
            file_name: format!("{}.png", picture.image_id),
            prompt: picture.prompt.clone(),
            seed: picture.seed,
            image_id: picture.image_id,
            prompt_id: picture.prompt_id,
            model: picture.model.clone(),
            parameters: picture.parameters.clone(),
        }
    }
}

/// The folder, and the pictures in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    metadata: File,
    known: HashSet<Uuid>,
}

const METADATA: &str = "metadata.jsonl";

impl Folder {
    /// Opens or creates the folder. Removes a line that a killed run left incomplete; its picture
    /// is drawn again.
    pub fn open(path: &Path) -> Result<Self, JobError> {
        Self::open_files(path).map_err(|reason| JobError::PictureFolder { path: path.to_owned(), reason })
    }

    fn open_files(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let (metadata, whole_bytes) = read(path)?;
        let file = OpenOptions::new().create(true).append(true).open(path.join(METADATA))?;
        file.set_len(whole_bytes)?;
        let known = metadata.iter().map(|line| line.image_id).collect();
        Ok(Self { path: path.to_path_buf(), metadata: file, known })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has(&self, id: Uuid) -> bool {
        self.known.contains(&id)
    }

    /// Returns the number of pictures in the folder.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns the metadata of all pictures in the folder.
    pub fn metadata(&self) -> io::Result<Vec<Metadata>> {
        Ok(read(&self.path)?.0)
    }

    /// Writes the picture, then its line of metadata. Both are on the disk when it returns.
    pub fn write(&mut self, picture: &Picture) -> Result<(), JobError> {
        if self.has(picture.image_id) {
            return Ok(());
        }
        let written = self.write_files(picture);
        written.map_err(|reason| JobError::PictureNotWritten { path: self.path.clone(), reason })?;
        self.known.insert(picture.image_id);
        Ok(())
    }

    fn write_files(&mut self, picture: &Picture) -> io::Result<()> {
        let metadata = Metadata::of(picture);
        let mut file = File::create(self.path.join(&metadata.file_name))?;
        file.write_all(&picture.png)?;
        file.sync_data()?;
        self.metadata.write_all((serde_json::to_string(&metadata)? + "\n").as_bytes())?;
        self.metadata.sync_data()
    }
}

/// Returns the complete lines and their length in bytes.
fn read(path: &Path) -> io::Result<(Vec<Metadata>, u64)> {
    let file = match File::open(path.join(METADATA)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        other => other?,
    };
    let (mut lines, mut bytes, mut line) = (Vec::new(), 0, String::new());
    let mut reader = BufReader::new(file);
    loop {
        line.clear();
        let read = reader.read_line(&mut line).unwrap_or(0);
        match serde_json::from_str(&line) {
            Ok(metadata) if line.ends_with('\n') => lines.push(metadata),
            _ => return Ok((lines, bytes)),
        }
        bytes += read as u64;
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn picture(number: u128) -> Picture {
        Picture {
            image_id: Uuid::from_u128(number),
            prompt_id: Uuid::from_u128(1),
            prompt: format!("a star\nnumber {number}"),
            seed: number as i64,
            model: "sd2@0".to_owned(),
            parameters: "ddim".to_owned(),
            png: vec![number as u8; 10],
            time_ms: None,
        }
    }

    #[test]
    fn a_picture_with_incomplete_metadata_is_written_again() {
        let target = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(target.path()).unwrap();
        (1..=3).for_each(|number| folder.write(&picture(number)).unwrap());
        let metadata = target.path().join(METADATA);
        let whole = fs::read(&metadata).unwrap();
        for cut in 1..40 {
            fs::write(&metadata, &whole[..whole.len() - cut]).unwrap();
            let mut folder = Folder::open(target.path()).unwrap();
            assert!(folder.has(Uuid::from_u128(2)) && !folder.has(Uuid::from_u128(3)), "{cut} bytes cut");
            folder.write(&picture(3)).unwrap();
            folder.write(&picture(3)).unwrap();
            assert_eq!(fs::read(&metadata).unwrap(), whole, "{cut} bytes cut");
        }
        let metadata = Folder::open(target.path()).unwrap().metadata().unwrap();
        assert_eq!(metadata[2].prompt, "a star\nnumber 3");
    }
}
