//! Environment variables as a layer: `UNPROMPT__KAFKA__BROKERS` is `brokers` in `[kafka]`.

use figment::util::nest;
use figment::value::{Dict, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

use super::secret_files::SECRETS;

/// The prefix of the variables; two underscores also separate section and key.
pub const ENVIRONMENT_PREFIX: &str = "UNPROMPT__";

/// The layer's name in errors.
pub(super) const LAYER: &str = "the environment";

/// The variables of a process, or of a test.
#[derive(Clone, Debug)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables.into_iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX));
        Self(ours.collect())
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named(LAYER)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut layer = Dict::new();
        for (name, text) in &self.0 {
            let key = name[ENVIRONMENT_PREFIX.len()..].to_lowercase().replace("__", ".");
            merge(&mut layer, nest(&key, value_of(&key, text)).into_dict().unwrap_or_default());
        }
        Ok(Profile::Default.collect(layer))
    }
}

/// Parses a value. Secrets and librdkafka's properties are taken literally: as a number, 0123 would
/// become another value.
fn value_of(key: &str, text: &str) -> Value {
    let is_secret = key.rsplit('.').next().is_some_and(|name| SECRETS.contains(&name));
    if is_secret || key.starts_with("kafka.properties.") {
        return Value::from(text);
    }
    let Ok(value) = text.parse();
    value
}

fn merge(into: &mut Dict, from: Dict) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Dict(_, old)), Value::Dict(_, new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}
