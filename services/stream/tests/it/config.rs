//! The layers of the configuration, and errors that name layer and key.

use figment::Jail;
use serde_json::json;
use unprompt_stream::Profile;
use unprompt_stream::config::load;

fn none() -> serde_json::Value {
    json!({})
}

#[test]
fn each_layer_goes_over_the_one_before() {
    Jail::expect_with(|jail| {
        assert_eq!(load(None, none()).unwrap().kafka.brokers, "127.0.0.1:9092");
        jail.create_file(
            "unprompt.toml",
            "[kafka]\nbrokers = \"file:1\"\nprefix = \"f.\"\n[predictor]\nk = 7",
        )?;
        let config = load(None, none()).unwrap();
        assert_eq!((config.kafka.brokers.as_str(), config.predictor.k), ("file:1", 7));
        jail.set_env("UNPROMPT__KAFKA__BROKERS", "environment:1");
        jail.set_env("UNPROMPT__RUNNER__SERVICES__GENERATOR__BATCH_RECORDS", "3");
        let config = load(None, none()).unwrap();
        assert_eq!(config.kafka.brokers, "environment:1");
        assert_eq!(config.kafka.prefix.as_str(), "f.");
        assert_eq!(config.runner.for_service("generator").batch_records, 3);
        let flags = json!({"kafka": {"brokers": "flag:1", "profile": "kafka"}});
        let config = load(None, flags).unwrap();
        assert_eq!((config.kafka.brokers.as_str(), config.kafka.profile), ("flag:1", Profile::Kafka));
        Ok(())
    });
}

#[test]
fn an_unknown_key_is_named_with_its_layer() {
    Jail::expect_with(|jail| {
        jail.create_file("mine.toml", "[kafka]\nbrokerz = \"a:1\"")?;
        let error = load(Some("mine.toml".as_ref()), none()).unwrap_err().to_string();
        assert!(error.contains("kafka.brokerz") && error.contains("mine.toml"), "{error}");
        assert!(error.contains("brokers"), "it lists what is allowed: {error}");
        jail.create_file("mine.toml", "")?;
        jail.set_env("UNPROMPT__HTTP__PORTT", "1");
        let error = load(None, none()).unwrap_err().to_string();
        assert!(error.contains("http.portt") && error.contains("environment"), "{error}");
        Ok(())
    });
}

#[test]
fn a_wrong_value_is_named_with_its_layer() {
    Jail::expect_with(|jail| {
        jail.set_env("UNPROMPT__RUNNER__BATCH_RECORDS", "many");
        let error = load(None, none()).unwrap_err().to_string();
        assert!(error.contains("runner.batch_records") && error.contains("environment"), "{error}");
        Ok(())
    });
}

#[test]
fn a_file_that_was_named_must_exist() {
    let error = load(Some("nowhere.toml".as_ref()), none()).unwrap_err().to_string();
    assert!(error.contains("nowhere.toml"), "{error}");
}

#[test]
fn secrets_are_used_but_never_shown() {
    Jail::expect_with(|jail| {
        let properties = "[kafka.properties]\n\"sasl.password\" = \"hunter2\"\nsasl.username = \"hunter3\"";
        jail.create_file("unprompt.toml", properties)?;
        jail.set_env("UNPROMPT__INDEX__API_KEY", "hunter4");
        jail.set_env("UNPROMPT__KAFKA__PROPERTIES__SSL_KEY_PASSWORD", "hunter5");
        let config = load(None, none()).unwrap();
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("[redacted]"), "{shown}");
        let property = |name: &str| config.kafka.properties[name].expose().to_owned();
        assert_eq!(property("sasl.password"), "hunter2");
        assert_eq!(property("sasl.username"), "hunter3");
        assert_eq!(property("ssl.key.password"), "hunter5");
        assert_eq!(config.index.api_key.unwrap().expose(), "hunter4");
        Ok(())
    });
}
