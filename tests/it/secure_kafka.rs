//! The binary against an Apache Kafka that requires authentication.

use std::path::Path;

use serde_json::Value;
use unprompt_test_kafka::{SCRAM_USER, SecureKafka};

use crate::stack::{talk, unprompt};

/// A configuration whose password is in a file.
fn configure(folder: &Path, broker: &SecureKafka, password: &str) -> String {
    std::fs::write(folder.join("password"), format!("{password}\n")).unwrap();
    let (brokers, user) = (broker.sasl_ssl(), SCRAM_USER.0);
    let (secret, ca) = (folder.join("password"), &broker.authority.file);
    let text = format!(
        "[kafka]\nbrokers = \"{brokers}\"\nprofile = \"kafka\"\nprefix = \"secured.\"\n[kafka.security]\n\
         protocol = \"sasl_ssl\"\nmechanism = \"SCRAM-SHA-512\"\nusername = \"{user}\"\npassword_file = {secret:?}\n\
         ca_file = {ca:?}\n[log]\nfilter = \"debug\"\n"
    );
    let file = folder.join("unprompt.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn check<'a>(checks: &'a Value, what: &str) -> &'a Value {
    checks.as_array().unwrap().iter().find(|check| check["what"] == what).unwrap()
}

#[test]
fn commands_authenticate_as_configured_and_report_a_wrong_password() {
    let broker = SecureKafka::shared();
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path(), broker, SCRAM_USER.1);
    let picture = folder.path().join("picture.png");
    std::fs::write(&picture, crate::stack::png(200, 30, 30)).unwrap();
    let picture = picture.to_str().unwrap();
    let run = |args: &[&str]| talk(folder.path(), &[&["--config", &config], args].concat());

    let published = run(&["publish", picture]);
    let said = String::from_utf8_lossy(&published.stderr);
    assert!(published.status.success(), "{said}");
    for command in [&["topics", "list"][..], &["dead-letters", "list"]] {
        let output = run(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    }
    let tail = run(&["topics", "tail", "images.v1", "--from-beginning", "-n", "1"]);
    assert!(tail.status.success() && !tail.stdout.is_empty(), "{}", String::from_utf8_lossy(&tail.stderr));
    let checks: Value = serde_json::from_slice(&run(&["--json", "doctor"]).stdout).unwrap();
    for what in ["Kafka", "delivery"] {
        assert_eq!(check(&checks, what)["ok"], true, "{checks}");
    }
    assert!(
        check(&checks, "delivery")["detail"].as_str().unwrap().contains("takes transactions"),
        "{checks}"
    );

    const WRONG: &str = "wrong-as-can-be-2f6e";
    let config = configure(folder.path(), broker, WRONG);
    let run = |args: &[&str]| talk(folder.path(), &[&["--config", &config], args].concat());
    for command in [
        &["publish", picture][..],
        &["topics", "list"],
        &["dead-letters", "list"],
        &["topics", "tail", "images.v1"],
        &["serve", "indexer", "--http-port", "0"],
    ] {
        let output = run(&[&["--log", "debug"], command].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("rejects our credentials"), "{command:?}: {said}");
        assert!(!said.contains(WRONG) && !String::from_utf8_lossy(&output.stdout).contains(WRONG));
    }
    let output = run(&["--log", "debug", "--json", "doctor"]);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}, {}: {}", output.status, String::from_utf8_lossy(&output.stderr))
    });
    for what in ["Kafka", "delivery"] {
        let detail = check(&checks, what)["detail"].as_str().unwrap();
        assert!(detail.contains("password in [kafka.security]"), "{detail}");
        assert!(!detail.contains("embedded one"), "{detail}");
    }
    let printed = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&printed).contains(WRONG), "the password was printed");
}

#[test]
fn a_missing_password_file_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let output = unprompt()
        .args(["--kafka", "127.0.0.1:1", "topics", "list"])
        .env("UNPROMPT__KAFKA__SECURITY__PASSWORD_FILE", folder.path().join("nowhere"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("kafka.security.password_file"), "{said}");
    assert!(said.contains("nowhere cannot be read") && said.contains("the environment"), "{said}");
}
