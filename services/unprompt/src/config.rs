//! The configuration of a process, composed of the sections of all services.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unprompt_generator::GeneratorSection;
use unprompt_image_encoder::{check_images, check_models, claim_check};
use unprompt_indexer::IndexSection;
use unprompt_models::picture::Limits;
use unprompt_models::settings::ModelSettings;
use unprompt_stream::KafkaConfig;
use unprompt_stream::config::{Http, Invalid, Log, RegistryConfig, RunnerSection, Sections, Telemetry};

use crate::service_table::ALL;

/// The whole configuration of a process. [`defaults`] lists every key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub kafka: KafkaConfig,
    pub registry: RegistryConfig,
    pub index: IndexSection,
    pub models: ModelSettings,
    pub generator: GeneratorSection,
    pub images: Limits,
    pub claim_check: claim_check::Settings,
    pub predictor: unprompt_predictor::Settings,
    pub runner: RunnerSection,
    pub embedded: Embedded,
    pub http: Http,
    pub log: Log,
    pub telemetry: Telemetry,
}

/// `[embedded]`: the embedded broker and index of `unprompt up`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedded {
    /// 0 takes any free port.
    pub broker_port: u16,
    /// 0 takes any free port.
    pub index_port: u16,
    pub data_dir: PathBuf,
}

impl Sections for Config {
    fn check(&self) -> Result<(), Invalid> {
        self.kafka.check()?;
        self.registry.check()?;
        self.generator.check()?;
        self.index.check()?;
        check_models(&self.models)?;
        check_images(&self.images)?;
        self.claim_check.check()?;
        self.predictor.check()?;
        self.runner.check()?;
        self.runner.services.keys().try_for_each(|name| check_service(name))?;
        self.log.check()?;
        self.telemetry.check()
    }
}

/// Refuses a misspelt service, which would otherwise run with the bounds of all services.
fn check_service(name: &str) -> Result<(), Invalid> {
    let names = ALL.map(|service| service.describe().name);
    match names.contains(&name) {
        true => Ok(()),
        false => Err(Invalid::new(
            format!("runner.services.{name}"),
            format!("there is no such service (choose one of {})", names.join(", ")),
        )),
    }
}

/// Returns every key with its default, as TOML with comments.
pub fn defaults() -> String {
    [
        HEADER,
        unprompt_stream::config::DEFAULTS,
        unprompt_text_encoder::DEFAULTS,
        unprompt_indexer::DEFAULTS,
        unprompt_models::settings::DEFAULTS,
        unprompt_generator::DEFAULTS,
        unprompt_image_encoder::DEFAULTS,
        unprompt_predictor::DEFAULTS,
        include_str!("default.toml"),
    ]
    .join("\n")
}

const HEADER: &str = "\
# The defaults. ./unprompt.toml (or --config FILE) overrides them, then the environment
# (UNPROMPT__KAFKA__BROKERS=host:9092), then flags.
";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use unprompt_stream::config::load_with;
    use unprompt_stream::{Profile, RunnerConfig, StreamError};

    use super::*;

    fn load(file: &str, variables: &[(&str, &str)], flags: Value) -> Result<Config, StreamError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, file).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load_with(&defaults(), Some(&path), variables, flags)
    }

    fn error(file: &str, variables: &[(&str, &str)], flags: Value) -> String {
        load(file, variables, flags).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_load_and_a_copy_of_them_changes_nothing() {
        let (plain, copied) = (load("", &[], json!({})).unwrap(), load(&defaults(), &[], json!({})).unwrap());
        assert_eq!(serde_json::to_value(&plain).unwrap(), serde_json::to_value(&copied).unwrap());
        assert_eq!(copied.kafka.profile, Profile::Embedded);
        assert_eq!(plain.runner.for_service("indexer"), RunnerConfig::default());
        assert_eq!(plain.runner.for_service("text-encoder").batch_records, 512);
    }

    /// Every start must report these errors, not only the service that uses the value.
    #[test]
    fn an_invalid_value_error_names_the_key_the_allowed_values_and_the_file() {
        for (section, key, value, wanted) in [
            ("generator", "scheduler", "\"dimm\"", "dpm-solver++"),
            ("generator", "precision", "\"f8\"", "bf16"),
            ("generator", "vae_tiles", "\"sometimes\"", "never"),
            ("generator", "steps", "0", "1 to 1000"),
            ("generator", "height", "100", "multiple of 8"),
            ("generator", "batch", "0", "1 or more"),
            ("models", "engine", "\"torch\"", "candle"),
            ("models", "vision_engine", "\"torch\"", "candle"),
            ("models", "precision", "\"f8\"", "bf16"),
            ("models", "clip_side", "0", "1 or more"),
            ("models", "encoders", "[{ folder = \"x\", side = 0 }]", "1 or more"),
            ("index", "profile", "\"cheap\"", "small-memory"),
            ("index", "url", "\"localhost:6334\"", "http://127.0.0.1:6334"),
            ("log", "filter", "\"unprompt=loud\"", "info"),
            ("predictor", "retrieval", "\"blip\"", "minilm"),
            ("predictor", "k", "0", "1 to 2000"),
            ("predictor", "k", "5000", "1 to 2000"),
            ("images", "max_pixels", "0", "1 or more"),
            ("claim_check", "concurrency", "0", "1 or more"),
            ("claim_check", "allow", "[\"pictures/\"]", "https://host/pictures/"),
            ("registry", "timeout_ms", "0", "1 or more"),
            ("telemetry", "sample_ratio", "2.0", "0 to 1"),
            ("runner", "batch_records", "0", "1 or more"),
            ("http", "port", "70000", "u16"),
        ] {
            let said = error(&format!("[{section}]\n{key} = {value}"), &[], json!({}));
            let key = format!("{section}.{key}");
            for part in [key.as_str(), wanted, "mine.toml"] {
                assert!(said.contains(part), "{part:?} is not in {said:?}");
            }
        }
    }

    #[test]
    fn an_invalid_value_error_names_the_environment_or_the_flags() {
        let said = error("", &[("UNPROMPT__GENERATOR__SCHEDULER", "dimm")], json!({}));
        assert!(said.contains("generator.scheduler") && said.contains("the environment"), "{said}");
        let said = error("", &[("UNPROMPT__PREDICTOR__K", "0")], json!({}));
        assert!(said.contains("predictor.k") && said.contains("the environment"), "{said}");
        let said = error("", &[], json!({"http": {"port": "many"}}));
        assert!(said.contains("http.port") && said.contains("the flags"), "{said}");
        let said = error("", &[], json!({"htp": {"port": 1}}));
        assert!(said.contains("htp") && said.contains("the flags"), "{said}");
    }

    #[test]
    fn bounds_for_an_unknown_service_are_an_error() {
        let said = error("[runner.services.predicter]\nbatch_records = 3", &[], json!({}));
        assert!(said.contains("runner.services.predicter") && said.contains("text-encoder"), "{said}");
    }

    #[test]
    fn a_value_of_the_right_type_is_taken_from_any_layer() {
        let file = "[generator]\nscheduler = \"dpm-solver++\"\n[predictor]\nretrieval = \"minilm\"";
        let config = load(file, &[("UNPROMPT__MODELS__ENGINE", "candle")], json!({})).unwrap();
        assert_eq!(config.generator.scheduler.to_string(), "dpm-solver++");
        assert_eq!(config.predictor.retrieval, unprompt_models::recipe::Retrieval::MiniLm);
        assert_eq!(config.models.engine, unprompt_models::minilm::Engine::Candle);
    }

    #[test]
    fn secrets_of_any_section_are_never_shown() {
        let config = load(
            "[claim_check.s3]\naccess_key_id = \"hunter1\"\nsecret_access_key = \"hunter2\"",
            &[("UNPROMPT__INDEX__API_KEY", "hunter3")],
            json!({}),
        )
        .unwrap();
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("hunter") && shown.contains("[redacted]"), "{shown}");
        assert_eq!(config.index.api_key.unwrap().expose(), "hunter3");
    }
}
