//! Where pictures go: images.v1, a folder of PNG files, or parquet files.

use std::fmt;

use anyhow::Context as _;
use unprompt_generator::Picture;
use unprompt_stream::{Publisher, ensure_topics};
use uuid::Uuid;

use super::folder::Folder;
use super::parquet::Parquet;
use crate::cli::Generate;
use crate::context::Context;

pub enum Sink {
    Topic { publisher: Publisher, name: String },
    Folder(Folder),
    Parquet(Parquet),
}

impl Sink {
    pub async fn open(context: &Context, args: &Generate) -> anyhow::Result<Self> {
        let Some(out) = &args.out else {
            let kafka = context.kafka();
            ensure_topics(&kafka).await?;
            let name = kafka.prefix.name(unprompt_schemas::topics::Topic::Images);
            return Ok(Self::Topic { publisher: Publisher::new(&kafka)?, name });
        };
        match args.parquet {
            true => Ok(Self::Parquet(Parquet::open(out, args.rows as usize)?)),
            false => Ok(Self::Folder(Folder::open(out)?)),
        }
    }

    /// Whether the picture is there already, as far as that can be told: a topic is not read.
    pub fn has(&self, id: Uuid) -> bool {
        match self {
            Self::Topic { .. } => false,
            Self::Folder(folder) => folder.has(id),
            Self::Parquet(parquet) => parquet.has(id),
        }
    }

    /// Puts pictures there; they are acknowledged, or on the disk, when it returns.
    pub async fn write(&mut self, pictures: &[Picture]) -> anyhow::Result<()> {
        match self {
            Self::Topic { publisher, name } => {
                let records: Vec<_> = pictures.iter().map(Picture::record).collect();
                publisher.publish_many(records).await.with_context(|| format!("{name} takes no pictures"))?;
                Ok(())
            }
            Self::Folder(folder) => pictures.iter().try_for_each(|picture| folder.write(picture)),
            Self::Parquet(parquet) => parquet.write(pictures),
        }
    }

    /// Whether enough pictures wait to be packed.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Parquet(parquet) if parquet.is_full())
    }

    /// Packs the rest: none will follow.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Parquet(parquet) => parquet.finish(),
            Self::Topic { .. } | Self::Folder(_) => Ok(()),
        }
    }

    /// Packs what waits.
    pub async fn pack(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Parquet(parquet) => parquet.pack(),
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
