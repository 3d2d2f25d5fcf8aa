//! The layers of the configuration and the errors that name them.

use std::path::Path;

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::{Figment, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Invalid;
use super::code_loading::{LOCAL_FILE, refuse_code};
use super::environment::{Environment, LAYER};
use super::named_brokers::set_kafka_profile;
use super::rewritten::Rewritten;
use super::secret_files::read_secret_files;
use super::unquoted::unquoted;
use crate::StreamError;

/// The sections of a process, composed by its binary.
pub trait Sections: DeserializeOwned {
    /// Checks what a type cannot: ranges, and keys that contradict each other.
    ///
    /// # Errors
    /// The first value that cannot be used.
    fn check(&self) -> Result<(), Invalid>;
}

/// Reads the configuration: `defaults` (TOML), then `file` (or ./unprompt.toml if it exists),
/// then the environment, then `flags`: any serialisable value of the same shape that leaves out
/// what was not given.
///
/// # Errors
///
/// [`StreamError::Config`], naming the layer and the key.
pub fn load<C: Sections>(
    defaults: &str,
    file: Option<&Path>,
    flags: impl Serialize,
) -> Result<C, StreamError> {
    // A variable that is not Unicode is not one of ours.
    let unicode = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    load_with(defaults, file, unicode, flags)
}

/// [`load`] with the environment handed in.
///
/// # Errors
///
/// As [`load`].
pub fn load_with<C: Sections>(
    defaults: &str,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: impl Serialize,
) -> Result<C, StreamError> {
    let figment = with_file(Figment::from(Toml::string(defaults)), file)?
        .merge(written(Environment::new(environment)))
        .merge(Rewritten::new(Serialized::defaults(flags), set_kafka_profile));
    let config: C = figment.extract().map_err(|error| StreamError::Config(explain(&figment, error)))?;
    config.check().map_err(|invalid| StreamError::Config(explain_invalid(&figment, &invalid)))?;
    Ok(config)
}

/// A layer that a user wrote: its secrets may be in files.
fn written<P: Provider>(layer: P) -> impl Provider {
    Rewritten::new(Rewritten::new(layer, read_secret_files), set_kafka_profile)
}

fn with_file(figment: Figment, file: Option<&Path>) -> Result<Figment, StreamError> {
    match file {
        Some(path) if !path.is_file() => {
            Err(StreamError::Config(format!("{} is not a file; check --config", path.display())))
        }
        Some(path) => Ok(figment.merge(written(Toml::file_exact(path)))),
        None if Path::new(LOCAL_FILE).is_file() => {
            let local = Rewritten::new(Toml::file_exact(LOCAL_FILE), refuse_code);
            Ok(figment.merge(written(local)))
        }
        None => Ok(figment),
    }
}

/// Joins all errors into one text: what is wrong, with which key, in which layer.
fn explain(figment: &Figment, errors: figment::Error) -> String {
    errors.into_iter().map(|error| explain_one(figment, error)).collect::<Vec<_>>().join("; ")
}

fn explain_one(figment: &Figment, error: figment::Error) -> String {
    let key = key_of(&error);
    let layer = figment
        .find_metadata(&key)
        .or(error.metadata.as_ref())
        .map_or_else(|| "the defaults".to_owned(), layer_name);
    let what = unquoted(&error.kind);
    match key.is_empty() {
        true => format!("{what} (in {layer})"),
        false => format!("{what} for key `{key}` in {layer}"),
    }
}

fn explain_invalid(figment: &Figment, Invalid { key, what }: &Invalid) -> String {
    if key.is_empty() {
        return what.clone();
    }
    let layer = figment.find_metadata(key).map_or_else(|| "the defaults".to_owned(), layer_name);
    format!("{what} for key `{key}` in {layer}")
}

fn key_of(error: &figment::Error) -> String {
    let mut path = error.path.clone();
    if let Kind::UnknownField(name, _) = &error.kind {
        path.push(name.clone());
        path.dedup();
    }
    path.join(".")
}

fn layer_name(metadata: &figment::Metadata) -> String {
    match (&metadata.source, metadata.name.as_ref()) {
        (Some(figment::Source::File(path)), _) => path.display().to_string(),
        (_, LAYER) => LAYER.to_owned(),
        (_, name) if name.contains("TOML") => "the defaults".to_owned(),
        _ => "the flags".to_owned(),
    }
}
