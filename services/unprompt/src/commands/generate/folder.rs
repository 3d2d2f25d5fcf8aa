//! A folder of PNG files and a metadata.jsonl that tells of them, as Hugging Face's datasets reads a folder of images. It knows nothing
//! of prompts that are still to be drawn.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use unprompt_generator::Picture;
use uuid::Uuid;

/// One line of metadata.jsonl.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Metadata {
    pub file_name: String,
    pub prompt: String,
    pub seed: i64,
    pub image_id: Uuid,
    pub prompt_id: Uuid,
    /// `name@revision` of the model.
    pub model: String,
    /// How the picture was made.
    pub parameters: String,
}

#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    metadata: File,
    known: HashSet<Uuid>,
}

const METADATA: &str = "metadata.jsonl";

impl Folder {
    /// Opens or makes it. A line that a killed run left unfinished is taken away: its picture is drawn again.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let told = || format!("pictures cannot be kept in {}", path.display());
        fs::create_dir_all(path).with_context(told)?;
        let (metadata, whole_bytes) = read(path).with_context(told)?;
        let file =
            OpenOptions::new().create(true).append(true).open(path.join(METADATA)).with_context(told)?;
        file.set_len(whole_bytes).with_context(told)?;
        let known = metadata.iter().map(|line| line.image_id).collect();
        Ok(Self { path: path.to_path_buf(), metadata: file, known })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has(&self, id: Uuid) -> bool {
        self.known.contains(&id)
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// All that is told of its pictures.
    pub fn metadata(&self) -> anyhow::Result<Vec<Metadata>> {
        Ok(read(&self.path)?.0)
    }

    /// The picture first, then the line that tells of it: both are on the disk when it returns.
    pub fn write(&mut self, picture: &Picture) -> anyhow::Result<()> {
        if self.has(picture.image_id) {
            return Ok(());
        }
        let file_name = format!("{}.png", picture.image_id);
        let metadata = Metadata {
            file_name: file_name.clone(),
            prompt: picture.prompt.clone(),
            seed: picture.seed,
            image_id: picture.image_id,
            prompt_id: picture.prompt_id,
            model: picture.model.clone(),
            parameters: picture.parameters.clone(),
        };
        let line = serde_json::to_string(&metadata)? + "\n";
        let written = self.write_file(&file_name, &picture.png).and_then(|()| {
            self.metadata.write_all(line.as_bytes())?;
            self.metadata.sync_data()
        });
        written.with_context(|| {
            format!("{} takes no more pictures; give it room and the same command again", self.path.display())
        })?;
        self.known.insert(picture.image_id);
        Ok(())
    }

    fn write_file(&self, name: &str, content: &[u8]) -> std::io::Result<()> {
        let mut file = File::create(self.path.join(name))?;
        file.write_all(content)?;
        file.sync_data()
    }
}

/// The lines that are whole, and how many bytes they are.
fn read(path: &Path) -> anyhow::Result<(Vec<Metadata>, u64)> {
    let file = match File::open(path.join(METADATA)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
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
    fn what_a_killed_run_left_unfinished_is_drawn_again() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(place.path()).unwrap();
        (1..=3).for_each(|number| folder.write(&picture(number)).unwrap());
        let metadata = place.path().join(METADATA);
        let whole = fs::read(&metadata).unwrap();
        for cut in 1..40 {
            fs::write(&metadata, &whole[..whole.len() - cut]).unwrap();
            let mut folder = Folder::open(place.path()).unwrap();
            assert!(folder.has(Uuid::from_u128(2)) && !folder.has(Uuid::from_u128(3)), "{cut} bytes cut");
            folder.write(&picture(3)).unwrap();
            folder.write(&picture(3)).unwrap();
            assert_eq!(fs::read(&metadata).unwrap(), whole, "{cut} bytes cut");
        }
        assert_eq!(Folder::open(place.path()).unwrap().metadata().unwrap()[2].prompt, "a star\nnumber 3");
    }
}
