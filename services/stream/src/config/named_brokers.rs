//! What it means to name brokers: they are a Kafka's that stands elsewhere, unless the same layer says the profile.

use figment::value::{Dict, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

/// A layer in which brokers without a profile have the profile of Kafka.
#[derive(Clone, Debug)]
pub(super) struct NamedBrokers<P>(pub P);

impl<P: Provider> Provider for NamedBrokers<P> {
    fn metadata(&self) -> Metadata {
        self.0.metadata()
    }

    fn profile(&self) -> Option<Profile> {
        self.0.profile()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut data = self.0.data()?;
        for layer in data.values_mut() {
            let Some(Value::Dict(_, kafka)) = layer.get_mut("kafka") else { continue };
            if kafka.contains_key("brokers") && !kafka.contains_key("profile") {
                kafka.insert("profile".into(), Value::from("kafka"));
            }
        }
        Ok(data)
    }
}
