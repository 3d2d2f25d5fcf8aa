//! The profile of named brokers: they belong to a Kafka elsewhere, unless the same layer sets the
//! profile.

use figment::value::{Dict, Value};
use figment::{Error, Metadata};

/// Sets the profile of Kafka in a layer that names brokers without a profile.
pub(super) fn set_kafka_profile(values: &mut Dict, _: Metadata) -> Result<(), Box<Error>> {
    if let Some(Value::Dict(_, kafka)) = values.get_mut("kafka")
        && kafka.contains_key("brokers")
        && !kafka.contains_key("profile")
    {
        kafka.insert("profile".into(), Value::from("kafka"));
    }
    Ok(())
}
