//! Settings that make Kafka's client run code: a library, or a shell command.
//!
//! They are refused in the file of the current folder, which is read automatically: whoever can
//! write to a folder that another person works in must not run code as that person.

use figment::value::{Dict, Value};
use figment::{Error, Metadata};

/// The file that is read if none is named.
pub const LOCAL_FILE: &str = "unprompt.toml";

/// The properties of librdkafka that name a library or a command.
const PROPERTIES: [&str; 5] = [
    "plugin.library.paths",
    "sasl.kerberos.kinit.cmd",
    "ssl.engine.id",
    "ssl.engine.location",
    "ssl.providers",
];

/// Refuses such properties in a layer.
pub(super) fn refuse_code(values: &mut Dict, layer: Metadata) -> Result<(), Box<Error>> {
    let Some(Value::Dict(_, kafka)) = values.get("kafka") else { return Ok(()) };
    let Some(Value::Dict(_, properties)) = kafka.get("properties") else { return Ok(()) };
    let Some(found) = found_in("", properties) else { return Ok(()) };
    let what = format!(
        "it makes the client run code, and {LOCAL_FILE} is read automatically: pass the file with --config"
    );
    let mut error = Error::from(what).with_path(&format!("kafka.properties.{found}"));
    error.metadata = Some(layer);
    Err(Box::new(error))
}

/// Finds such a property in any of the ways to write one: with dots in its name, or as tables.
fn found_in(parent: &str, properties: &Dict) -> Option<String> {
    properties.iter().find_map(|(name, value)| {
        let name = format!("{parent}{}", name.replace('_', "."));
        match value {
            Value::Dict(_, inner) => found_in(&format!("{name}."), inner),
            _ => PROPERTIES.contains(&name.as_str()).then_some(name),
        }
    })
}

#[cfg(test)]
mod tests {
    use figment::Provider as _;
    use figment::providers::{Format as _, Toml};

    use super::*;
    use crate::config::rewritten::Rewritten;

    fn refused(file: &str) -> Option<String> {
        Rewritten::new(Toml::string(file), refuse_code)
            .data()
            .err()
            .map(|error| format!("{}: {error}", error.path.join(".")))
    }

    #[test]
    fn properties_that_run_code_are_refused_in_every_notation() {
        for file in [
            "[kafka.properties]\n\"plugin.library.paths\" = \"/tmp/p.so\"",
            "[kafka.properties]\nplugin.library.paths = \"/tmp/p.so\"",
            "[kafka.properties]\nplugin_library_paths = \"/tmp/p.so\"",
            "kafka = { properties = { plugin = { \"library.paths\" = \"p.so\" } } }",
        ] {
            let error = refused(file).unwrap_or_else(|| panic!("taken: {file}"));
            assert!(error.contains("plugin.library.paths") && error.contains("--config"), "{error}");
        }
        assert!(refused("[kafka.properties]\n\"sasl.kerberos.kinit.cmd\" = \"sh\"").is_some());
    }

    #[test]
    fn other_properties_are_accepted() {
        for file in
            ["", "[kafka]\nbrokers = \"a:1\"", "[kafka.properties]\n\"socket.keepalive.enable\" = \"true\""]
        {
            assert_eq!(refused(file), None);
        }
    }
}
