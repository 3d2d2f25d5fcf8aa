//! The section `[kafka]`. `crate::kafka` makes the client properties of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unprompt_schemas::topics::Prefix;

use super::security::Protocol;
use super::{Invalid, Secret, Security};

/// The kind of broker; it decides timeouts, waits and which features may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The broker of `unprompt up`: one machine, no transactions, short waits.
    #[default]
    Embedded,
    /// Apache Kafka or a compatible cluster.
    Kafka,
}

/// The brokers of default.toml: the address of an embedded broker.
const DEFAULT_BROKERS: &str = "127.0.0.1:9092";

/// `[kafka]`: the brokers and the connection to them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Bootstrap servers, `host:port` separated by commas.
    pub brokers: String,
    /// The prefix of all topics, consumer groups and transactional ids.
    #[serde(with = "prefix_as_text")]
    pub prefix: Prefix,
    pub profile: Profile,
    /// A name of this process that outlives its restarts, different for every process of a service.
    /// With it the transactional id stays the same: a restart settles at once what the last run
    /// left open, and a new process fences an older one that uses the same name.
    #[serde(default)]
    pub instance: Option<String>,
    #[serde(default)]
    pub security: Security,
    /// librdkafka properties; they override those that this crate sets.
    #[serde(default, deserialize_with = "properties::deserialize")]
    pub properties: BTreeMap<String, Secret>,
}

impl KafkaConfig {
    /// Makes the configuration for the embedded broker at `brokers`, without prefix and
    /// further properties.
    pub fn embedded(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            prefix: Prefix::default(),
            profile: Profile::Embedded,
            instance: None,
            security: Security::default(),
            properties: BTreeMap::new(),
        }
    }

    /// Returns whether it names brokers, instead of the embedded one at its default address.
    pub fn is_elsewhere(&self) -> bool {
        self.profile == Profile::Kafka || self.brokers != DEFAULT_BROKERS
    }

    /// Finds keys that contradict each other.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to do.
    pub fn check(&self) -> Result<(), Invalid> {
        let protocol = self.security.protocol;
        if self.profile == Profile::Embedded && protocol != Protocol::Plaintext {
            return Err(Invalid::contradiction(format!(
                "[kafka.security] protocol = {:?} is for a Kafka elsewhere, and none is named; give --kafka or [kafka] \
                 brokers, or set profile = \"kafka\": the embedded broker speaks plaintext, on this machine only",
                protocol.name()
            )));
        }
        self.security.check(&self.properties).map_err(Invalid::contradiction)
    }

    /// Returns the consumer group of a service: `<prefix>unprompt-<service>`.
    pub fn group(&self, service: &str) -> String {
        format!("{}unprompt-{service}", self.prefix.as_str())
    }

    /// Returns the transactional id of a run of a service: its group and the instance, or a random
    /// name if no instance is set.
    pub fn transactional_id(&self, service: &str) -> String {
        let instance = self.instance.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        format!("{}-{instance}", self.group(service))
    }
}

mod prefix_as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use unprompt_schemas::topics::Prefix;

    pub fn serialize<S: Serializer>(prefix: &Prefix, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(prefix.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        let text = String::deserialize(deserializer)?;
        Prefix::new(&text).map_err(D::Error::custom)
    }
}

/// The forms in which properties may be written: `"sasl.password" = "…"`, or without the
/// quotation marks, which TOML reads as tables, or `SASL_PASSWORD` in the environment, where
/// names have no dots.
mod properties {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer};

    use crate::config::Secret;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Property {
        Table(BTreeMap<String, Property>),
        Value(Secret),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, Secret>, D::Error> {
        let written = BTreeMap::<String, Property>::deserialize(deserializer)?;
        let mut flat = BTreeMap::new();
        flatten("", written, &mut flat);
        Ok(flat)
    }

    fn flatten(parent: &str, written: BTreeMap<String, Property>, flat: &mut BTreeMap<String, Secret>) {
        for (name, property) in written {
            let name = format!("{parent}{}", name.replace('_', "."));
            match property {
                Property::Table(table) => flatten(&format!("{name}."), table, flat),
                Property::Value(value) => drop(flat.insert(name, value)),
            }
        }
    }
}
