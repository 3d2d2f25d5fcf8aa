//! Secrets in files: every secret of the configuration has a twin with the suffix `_file`, which
//! names a file that holds it.
//!
//! Each layer is resolved by itself, so that a later one overrides an earlier one in whichever form
//! either is written.

use std::path::Path;

use figment::value::{Dict, Value};
use figment::{Error, Metadata};

/// The names of secrets, in any section. A new secret is added here.
pub(super) const SECRETS: [&str; 8] = [
    "password",
    "key_password",
    "api_key",
    "token",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "authorization",
];

/// Reads the secrets of a layer that are in files.
pub(super) fn read_secret_files(values: &mut Dict, layer: Metadata) -> Result<(), Box<Error>> {
    read_into(values, "").map_err(|(key, what)| Box::new(explained(layer, &key, what)))
}

fn explained(layer: Metadata, key: &str, what: String) -> Error {
    let mut error = Error::from(what).with_path(key);
    error.metadata = Some(layer);
    error
}

/// Replaces every `_file` key by the secret from its file. An error is the key and
/// what is wrong with it.
fn read_into(section: &mut Dict, path: &str) -> Result<(), (String, String)> {
    let inside = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for secret in SECRETS {
        let twin = format!("{secret}_file");
        let Some(file) = section.remove(&twin) else { continue };
        let text = read(&file, secret, section.contains_key(secret));
        section.insert(secret.to_owned(), Value::from(text.map_err(|what| (inside(&twin), what))?));
    }
    section.iter_mut().try_for_each(|(key, value)| match value {
        Value::Dict(_, inner) => read_into(inner, &inside(key)),
        _ => Ok(()),
    })
}

fn read(file: &Value, secret: &str, is_given: bool) -> Result<String, String> {
    let Some(path) = file.as_str().map(Path::new) else { return Err("it is not the name of a file".into()) };
    if is_given {
        return Err(format!("`{secret}` is given too; keep one of them"));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the secret's file {} cannot be read: {error}", path.display()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("the secret's file {} is empty", path.display())),
        secret => Ok(secret.to_owned()),
    }
}
