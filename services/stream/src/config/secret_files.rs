//! Secrets in files: beside every secret of the configuration stands a twin with `_file` behind its name, which names a file that
//! holds it. Each layer is read so by itself, so that a later one goes over an earlier one whichever way either is written.

use std::path::Path;

use figment::value::{Dict, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

/// The names of secrets, wherever they stand. A new one gets its line here.
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

/// A layer whose secrets may stand in files.
#[derive(Clone, Debug)]
pub(super) struct SecretFiles<P>(pub P);

impl<P: Provider> Provider for SecretFiles<P> {
    fn metadata(&self) -> Metadata {
        self.0.metadata()
    }

    fn profile(&self) -> Option<Profile> {
        self.0.profile()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut data = self.0.data()?;
        for layer in data.values_mut() {
            read_into(layer, "").map_err(|(key, what)| explained(self.0.metadata(), &key, what))?;
        }
        Ok(data)
    }
}

fn explained(layer: Metadata, key: &str, what: String) -> Error {
    let mut error = Error::from(what).with_path(key);
    error.metadata = Some(layer);
    error
}

/// Puts every secret in the place of the file that holds it; fails with the key and what is wrong with it.
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
