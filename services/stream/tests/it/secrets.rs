//! Secrets in files and in the environment, and the `[kafka.security]` settings that
//! are refused on load.

use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;
use unprompt_stream::{StreamError, ensure_topics};

use crate::sections::{Config, load_with};

/// A folder for a configuration and the files that it names.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, file: &str, variables: &[(&str, &str)]) -> Result<Config, StreamError> {
        let path = self.write("mine.toml", file);
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load_with(Some(&path), variables, json!({"kafka": {"profile": "kafka"}}))
    }

    fn error(&self, file: &str) -> String {
        self.load(file, &[]).unwrap_err().to_string()
    }
}

const SASL: &str =
    "[kafka.security]\nprotocol = \"sasl_ssl\"\nmechanism = \"SCRAM-SHA-512\"\nusername = \"us\"\n";

fn password(config: Config) -> String {
    config.kafka.security.password.unwrap().expose().to_owned()
}

#[test]
fn a_secret_can_be_in_a_file_named_by_any_layer() {
    let folder = Folder::new();
    let (first, second) = (folder.write("first", "hunter2\n"), folder.write("second", " hunter3\r\n\n"));
    let named = format!("{SASL}password_file = {first:?}\n[registry]\ntoken_file = {second:?}");
    let config = folder.load(&named, &[]).unwrap();
    assert_eq!(config.registry.token.as_ref().unwrap().expose(), " hunter3", "only line ends go");
    assert_eq!(password(config), "hunter2");
    let variable = ("UNPROMPT__KAFKA__SECURITY__PASSWORD_FILE", second.to_str().unwrap());
    assert_eq!(password(folder.load(&named, &[variable]).unwrap()), " hunter3");
    let variable = ("UNPROMPT__KAFKA__SECURITY__PASSWORD", "hunter4");
    assert_eq!(password(folder.load(&named, &[variable]).unwrap()), "hunter4", "the later layer wins");
}

#[test]
fn a_file_without_a_secret_is_named_with_its_key() {
    let folder = Folder::new();
    let empty = folder.write("empty", "\n");
    for (file, what) in [(empty.to_str().unwrap(), "is empty"), ("nowhere", "cannot be read")] {
        let error = folder.error(&format!("{SASL}password_file = {file:?}"));
        for part in [what, file, "kafka.security.password_file", "mine.toml"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    let error = folder.error(&format!("{SASL}password = \"hunter2\"\npassword_file = {empty:?}"));
    assert!(error.contains("keep one of them") && !error.contains("hunter2"), "{error}");
    assert!(folder.error(&format!("{SASL}password_file = 3")).contains("not the name of a file"));
}

#[test]
fn a_secret_from_the_environment_is_taken_letter_for_letter() {
    let folder = Folder::new();
    for written in ["0123", "1e5", "true", "[a]", "{b}", "\"c\"", " d "] {
        let variables = [
            ("UNPROMPT__KAFKA__SECURITY__PASSWORD", written),
            ("UNPROMPT__KAFKA__PROPERTIES__SSL_KEY_PASSWORD", written),
        ];
        let config = folder.load(SASL, &variables).unwrap();
        assert_eq!(config.kafka.properties["ssl.key.password"].expose(), written);
        assert_eq!(password(config), written);
    }
}

#[test]
fn contradictory_security_settings_are_refused_with_advice() {
    let folder = Folder::new();
    let there = folder.write("there.pem", "a certificate");
    let there = there.display();
    for (security, advice) in [
        ("mechanism = \"PLAIN\"", "set protocol = \"sasl_ssl\""),
        ("username = \"us\"", "set protocol = \"sasl_ssl\""),
        ("protocol = \"sasl_ssl\"", "SCRAM-SHA-512"),
        ("protocol = \"sasl_ssl\"\nmechanism = \"PLAIN\"\nusername = \"us\"", "password_file"),
        ("protocol = \"sasl_ssl\"\nmechanism = \"PLAIN\"\npassword = \"hunter2\"", "needs a username"),
        ("protocol = \"sasl_ssl\"\nmechanism = \"OAUTHBEARER\"\nusername = \"us\"", "sasl.oauthbearer.*"),
        (&format!("ca_file = \"{there}\""), "set protocol = \"ssl\""),
        (&format!("protocol = \"ssl\"\ncertificate_file = \"{there}\""), "belong together"),
        ("protocol = \"ssl\"\nkey_password = \"hunter2\"", "key_file"),
        ("protocol = \"ssl\"\nca_file = \"nowhere.pem\"", "ca_file: nowhere.pem cannot be read"),
        ("protocol = \"ssl\"\nca_file = \"/\"", "ca_file: / is not a file"),
        ("protocol = \"tls\"", "sasl_ssl"),
    ] {
        let error = folder.error(&format!("[kafka.security]\n{security}"));
        assert!(error.contains(advice), "{advice:?} is not in {error:?}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_toml_syntax_error_gives_the_position_without_the_line() {
    let folder = Folder::new();
    for file in [
        "[kafka.security]\npassword = hunter2",
        "[kafka.security]\npassword = \"hunter2",
        "[kafka.security]\npassword = \"hunter2\" hunter2",
        "[kafka.security]\npassword = | hunter2 ^",
        "[kafka.security]\npassword: hunter2",
    ] {
        let error = folder.error(file);
        assert!(error.contains("line 2, column") && !error.contains('\n'), "{error}");
        assert!(!error.contains("hunter"), "{error}");
    }
    let error = folder.error("[kafka.security]\npassword = hunter2");
    assert!(error.contains("mine.toml") && error.contains("string"), "{error}");
}

#[test]
fn a_value_of_the_wrong_type_is_reported_by_type_only() {
    let folder = Folder::new();
    for (name, value) in [
        ("UNPROMPT__TELEMETRY__HEADERS", "authorization=Bearer hunter2"),
        ("UNPROMPT__KAFKA__PROPERTIES", "sasl.password=hunter2"),
        ("UNPROMPT__KAFKA__SECURITY", "password=hunter2"),
        ("UNPROMPT__RUNNER__BATCH_RECORDS", "hunter2"),
    ] {
        let error = folder.load("", &[(name, value)]).unwrap_err().to_string();
        assert!(error.contains("found a string") && error.contains("the environment"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = folder.load("", &[("UNPROMPT__KAFKA__PROPERTIES", "271828")]).unwrap_err().to_string();
    assert!(error.contains("found a number") && !error.contains("271828"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_that_librdkafka_refuses_is_named_without_its_value() {
    let folder = Folder::new();
    for property in ["sasl.pasword", "security.protocol", "socket.timeout.ms"] {
        let config = folder.load(&format!("[kafka.properties]\n{property:?} = \"hunter2\""), &[]).unwrap();
        let error = ensure_topics(&config.kafka).await.unwrap_err();
        assert!(matches!(error, StreamError::Client(_)), "{error:?}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(property) && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn properties_can_supply_settings_missing_from_the_security_section() {
    let folder = Folder::new();
    let section = "[kafka.security]\nprotocol = \"sasl_ssl\"\nmechanism = \"PLAIN\"\n";
    let properties = "[kafka.properties]\n\"sasl.username\" = \"us\"\n\"sasl.password\" = \"hunter2\"";
    folder.load(&format!("{section}{properties}"), &[]).unwrap();
}

#[test]
fn the_embedded_broker_refuses_security_settings() {
    let folder = Folder::new();
    let path = folder.write("mine.toml", "[kafka.security]\nprotocol = \"ssl\"");
    let error = load_with(Some(&path), [], json!({})).unwrap_err().to_string();
    assert!(error.contains("--kafka") && error.contains("speaks plaintext"), "{error}");
}
