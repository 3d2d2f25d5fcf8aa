//! The layers of the configuration, and errors that name layer and key.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use unprompt_stream::{Profile, RunnerConfig, StreamError};

use crate::sections::{Config, load_with};

/// The layers of a test, each empty unless given.
struct Layers {
    dir: TempDir,
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Value,
}

impl Layers {
    fn none() -> Self {
        Self { dir: TempDir::new().unwrap(), file: None, environment: Vec::new(), flags: json!({}) }
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.dir.path().join("mine.toml");
        std::fs::write(&path, text).unwrap();
        self.file = Some(path);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn flags(mut self, flags: Value) -> Self {
        self.flags = flags;
        self
    }

    fn load(&self) -> Result<Config, StreamError> {
        load_with(self.file.as_deref(), self.environment.clone(), self.flags.clone())
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn each_layer_overrides_the_one_before() {
    let brokers = |layers: &Layers| layers.load().unwrap().kafka.brokers;
    let layers = Layers::none();
    assert_eq!(brokers(&layers), "127.0.0.1:9092");
    let layers = layers.file("[kafka]\nbrokers = \"file:1\"\nprefix = \"f.\"\n[http]\nport = 7");
    assert_eq!(brokers(&layers), "file:1");
    let layers =
        layers.variable("UNPROMPT__KAFKA__BROKERS", "environment:1").variable("KAFKA__BROKERS", "no");
    assert_eq!(brokers(&layers), "environment:1");
    let layers = layers.flags(json!({"kafka": {"brokers": "flag:1", "profile": "kafka"}}));
    let config = layers.load().unwrap();
    assert_eq!((config.kafka.brokers.as_str(), config.kafka.profile), ("flag:1", Profile::Kafka));
    assert_eq!((config.kafka.prefix.as_str(), config.http.port), ("f.", 7), "other keys of the file stay");
}

#[test]
fn named_brokers_imply_the_kafka_profile_unless_their_layer_sets_the_profile() {
    let told = |layers: &Layers| {
        let kafka = layers.load().unwrap().kafka;
        (kafka.profile, kafka.is_elsewhere())
    };
    assert_eq!(told(&Layers::none()), (Profile::Embedded, false));
    assert_eq!(told(&Layers::none().file("[kafka]\nprefix = \"f.\"")), (Profile::Embedded, false));
    for named in ["host:9092", "127.0.0.1:9092"] {
        let file = format!("[kafka]\nbrokers = \"{named}\"");
        assert_eq!(told(&Layers::none().file(&file)), (Profile::Kafka, true), "{named}");
        let variable = Layers::none().variable("UNPROMPT__KAFKA__BROKERS", named);
        assert_eq!(told(&variable), (Profile::Kafka, true), "{named}");
        let flags = Layers::none()
            .file("[kafka]\nprofile = \"embedded\"")
            .flags(json!({"kafka": {"brokers": named}}));
        assert_eq!(told(&flags), (Profile::Kafka, true), "{named}");
    }
    let embedded = Layers::none()
        .variable("UNPROMPT__KAFKA__BROKERS", "host:9092")
        .variable("UNPROMPT__KAFKA__PROFILE", "embedded");
    assert_eq!(told(&embedded), (Profile::Embedded, true), "an embedded broker of another process");
    let copied = Layers::none().file(unprompt_stream::config::DEFAULTS);
    assert_eq!(told(&copied), (Profile::Embedded, false), "a copy of the defaults changes nothing");
}

#[test]
fn invalid_runner_limits_are_refused_with_key_layer_and_range() {
    for (bound, range) in [
        ("batch_records = 0", "1 or more"),
        ("batch_bytes = 0", "1 or more"),
        ("bytes_in_flight = 0", "1 or more"),
        ("retry_initial_ms = 0", "1 to 86400000"),
        ("retry_max_ms = 0", "1 to 86400000"),
        ("batch_time_ms = 86400001", "0 to 86400000"),
        ("transaction_records = 0", "1 or more"),
        ("transaction_timeout_ms = 999", "1000 to 86400000"),
        ("dead_letter_window = 0", "1 or more"),
        ("dead_letter_ratio = -0.5", "0 or more"),
        ("dead_letter_ratio = nan", "0 or more"),
    ] {
        let key = bound.split(' ').next().unwrap();
        for section in ["runner", "runner.services.generator"] {
            let error = Layers::none().file(&format!("[{section}]\n{bound}")).error();
            for part in [format!("`{section}.{key}`").as_str(), range, "mine.toml"] {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
    }
    let error = Layers::none().variable("UNPROMPT__RUNNER__BATCH_RECORDS", "0").error();
    assert!(error.contains("runner.batch_records") && error.contains("the environment"), "{error}");
    let least =
        "[runner]\nbatch_records = 1\nbatch_time_ms = 0\ncommit_interval_ms = 0\nretry_initial_ms = 1";
    assert_eq!(Layers::none().file(least).load().unwrap().runner.for_service("any").batch_records, 1);
}

#[test]
fn a_service_can_override_runner_limits_in_any_layer() {
    let layers = Layers::none()
        .file("[runner]\nbatch_time_ms = 77\n[runner.services.generator]\nbatch_time_ms = 5")
        .variable("UNPROMPT__RUNNER__SERVICES__GENERATOR__BATCH_RECORDS", "3");
    let runner = layers.load().unwrap().runner;
    let generator = runner.for_service("generator");
    assert_eq!((generator.batch_records, generator.batch_time_ms), (3, 5));
    assert_eq!(runner.for_service("indexer").batch_time_ms, 77);
}

#[test]
fn the_defaults_of_file_and_code_are_the_same() {
    let from_file = Layers::none().load().unwrap().runner.for_service("any");
    assert_eq!(from_file, RunnerConfig::default());
}

#[test]
fn an_unknown_key_is_named_with_its_layer() {
    let error = Layers::none().file("[kafka]\nbrokerz = \"a:1\"").error();
    assert!(error.contains("kafka.brokerz") && error.contains("mine.toml"), "{error}");
    assert!(error.contains("brokers"), "it lists what is allowed: {error}");
    let error = Layers::none().variable("UNPROMPT__HTTP__PORTT", "1").error();
    assert!(error.contains("http.portt") && error.contains("the environment"), "{error}");
    let error = Layers::none().flags(json!({"htp": {"port": 1}})).error();
    assert!(error.contains("htp") && error.contains("the flags"), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_its_layer() {
    let error = Layers::none().variable("UNPROMPT__RUNNER__BATCH_RECORDS", "many").error();
    assert!(error.contains("runner.batch_records") && error.contains("the environment"), "{error}");
    let error = Layers::none().file("[kafka]\nprefix = \"not allowed!\"").error();
    assert!(error.contains("kafka.prefix") && error.contains("mine.toml"), "{error}");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let mut layers = Layers::none();
    layers.file = Some("nowhere.toml".into());
    assert!(layers.error().contains("nowhere.toml"), "{}", layers.error());
}

#[test]
fn secrets_are_used_but_never_shown() {
    let config = Layers::none()
        .file("[kafka.properties]\n\"sasl.password\" = \"hunter2\"\nsasl.username = \"hunter3\"")
        .variable("UNPROMPT__REGISTRY__TOKEN", "hunter4")
        .variable("UNPROMPT__KAFKA__PROPERTIES__SSL_KEY_PASSWORD", "hunter5")
        .variable("UNPROMPT__TELEMETRY__HEADERS__AUTHORIZATION", "hunter6")
        .load()
        .unwrap();
    let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(shown.contains("[redacted]"), "{shown}");
    let property = |name: &str| config.kafka.properties[name].expose().to_owned();
    assert_eq!(property("sasl.password"), "hunter2");
    assert_eq!(property("sasl.username"), "hunter3");
    assert_eq!(property("ssl.key.password"), "hunter5");
    assert_eq!(config.registry.token.unwrap().expose(), "hunter4");
    assert_eq!(config.telemetry.headers["authorization"].expose(), "hunter6");
}
