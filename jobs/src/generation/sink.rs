//! The targets of pictures: images.v1, a folder of PNG files, or parquet files.

use std::fmt;
use std::path::PathBuf;

use unprompt_generator::Picture;
use unprompt_schemas::Uuid;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{KafkaConfig, Publisher, ensure_topics};

use super::folder::Folder;
use super::parquet::Parquet;
use crate::JobError;

/// The target of the pictures.
#[derive(Clone, Debug)]
pub enum PictureTarget {
    /// images.v1.
    Topic(KafkaConfig),
    /// PNG files and their metadata.jsonl.
    Folder(PathBuf),
    /// Parquet files of `rows` pictures each.
    Parquet { folder: PathBuf, rows: usize },
}

impl PictureTarget {
    /// Returns the target's name in a checkpoint: the folder's absolute path, or the topic's base
    /// name.
    pub(super) fn place(&self) -> Result<String, JobError> {
        let (Self::Folder(folder) | Self::Parquet { folder, .. }) = self else {
            return Ok(Topic::Images.base_name().to_owned());
        };
        let absolute = std::path::absolute(folder);
        let failed = |reason| JobError::PictureFolder { path: folder.clone(), reason };
        Ok(absolute.map_err(failed)?.display().to_string())
    }

    pub(super) fn is_parquet(&self) -> bool {
        matches!(self, Self::Parquet { .. })
    }
}

/// An open target.
#[derive(Debug)]
pub(super) enum Sink {
    Topic { publisher: Publisher, name: String },
    Folder(Folder),
    Parquet(Parquet),
}

impl Sink {
    pub async fn open(target: &PictureTarget) -> Result<Self, JobError> {
        match target {
            PictureTarget::Topic(kafka) => {
                ensure_topics(kafka).await?;
                let name = kafka.prefix.name(Topic::Images);
                Ok(Self::Topic { publisher: Publisher::new(kafka)?, name })
            }
            PictureTarget::Folder(folder) => Ok(Self::Folder(Folder::open(folder)?)),
            PictureTarget::Parquet { folder, rows } => Ok(Self::Parquet(Parquet::open(folder, *rows)?)),
        }
    }

    /// Returns whether the picture already exists. A topic is not read, so its pictures are
    /// unknown.
    pub fn has(&self, id: Uuid) -> bool {
        match self {
            Self::Topic { .. } => false,
            Self::Folder(folder) => folder.has(id),
            Self::Parquet(parquet) => parquet.has(id),
        }
    }

    /// Writes pictures. They are acknowledged, or on the disk, when it returns.
    pub async fn write(&mut self, pictures: &[Picture]) -> Result<(), JobError> {
        match self {
            Self::Topic { publisher, .. } => {
                publisher.publish_many(pictures.iter().map(Picture::record).collect::<Vec<_>>()).await?;
                Ok(())
            }
            Self::Folder(folder) => pictures.iter().try_for_each(|picture| folder.write(picture)),
            Self::Parquet(parquet) => parquet.write(pictures),
        }
    }

    /// Packs the waiting pictures into a parquet file if there are enough for one.
    pub fn pack_if_full(&mut self) -> Result<(), JobError> {
        match self {
            Self::Parquet(parquet) if parquet.is_full() => parquet.pack(),
            _ => Ok(()),
        }
    }

    /// Packs the remaining pictures into a parquet file. No picture may follow.
    pub fn finish(&mut self) -> Result<(), JobError> {
        match self {
            Self::Parquet(parquet) => parquet.finish(),
            Self::Topic { .. } | Self::Folder(_) => Ok(()),
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic { name, .. } => f.write_str(name),
            Self::Folder(folder) => write!(f, "{}", folder.path().display()),
            Self::Parquet(parquet) => write!(f, "{}", parquet.path().display()),
        }
    }
}
