//! With a schema registry: the records on the topics, other clients of it, and the errors without
//! it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use unprompt_schemas::dead_letter::names;
use unprompt_schemas::records::{CurrentSchema, Prediction, Prompt, Record};
use unprompt_schemas::registry::subject;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{KafkaConfig, OutputRecord};
use unprompt_test_registry::TestRegistry;

use crate::other_clients::{must_succeed, python};
use crate::stack::{Up, get, png, publish, read, read_until, unprompt, wait_for};

const SCRIPT: &str = "tests/python/registry_client.py";

/// Runs a command of the binary with these environment variables.
fn talk(data_dir: &Path, environment: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = unprompt();
    command.arg("--data-dir").arg(data_dir).args(args).envs(environment.iter().copied());
    command.output().expect("the binary runs")
}

fn answer(data_dir: &Path, environment: &[(&str, &str)], args: &[&str]) -> String {
    let output = talk(data_dir, environment, args);
    assert!(output.status.success(), "{args:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The registry's schema for the id of a value in Confluent framing.
fn registered_schema(registry: &TestRegistry, value: &[u8]) -> Value {
    let (header, _) = value.split_first_chunk::<5>().expect("a header");
    let [0, id @ ..] = *header else { panic!("not in Confluent framing: {header:?}") };
    let (url, id) = (registry.url(), u32::from_be_bytes(id));
    let (address, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let asked = get(address.parse().unwrap(), &format!("/{path}/schemas/ids/{id}")).unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "the registry does not know the id {id}: {head}");
    // The body may be chunked; its JSON is on one line.
    let json = body.lines().find(|line| line.starts_with('{')).unwrap();
    let stored: Value = serde_json::from_str(json).unwrap();
    serde_json::from_str(stored["schema"].as_str().unwrap()).unwrap()
}

/// A prompt published by Python's confluent-kafka, with a schema of one field more than ours.
fn publish_evolved_prompt(
    folder: &Path,
    kafka: &KafkaConfig,
    registry: &TestRegistry,
    text: &str,
) -> Vec<u8> {
    let mut schema: Value = serde_json::from_str(Prompt::SCHEMA_JSON).unwrap();
    let mood = json!({"name": "mood", "type": "string", "default": ""});
    schema["fields"].as_array_mut().unwrap().push(mood);
    let file = folder.join("prompt.avsc");
    std::fs::write(&file, schema.to_string()).unwrap();
    let prompt = json!({"text": text, "source": "python", "seeds": [], "attributes": {}, "mood": "calm"});
    let mut command = python(SCRIPT);
    command.args(["produce", &kafka.brokers, &registry.url(), Topic::Prompts.base_name()]);
    command.args([file.to_str().unwrap(), "key"]);
    let mut producing = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    producing.stdin.take().unwrap().write_all(prompt.to_string().as_bytes()).unwrap();
    let output = producing.wait_with_output().unwrap();
    assert!(output.status.success());
    hex(String::from_utf8(output.stdout).unwrap().trim())
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Given a registry, when Python publishes a prompt of a newer schema and a picture is predicted,
/// then all Avro on the topics is in Confluent framing with ids that the registry knows, and Python
/// reads the prediction.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_registry_python_and_the_services_read_each_others_records() {
    let registry = tokio::task::block_in_place(TestRegistry::start);
    let url = registry.url();
    let environment = [("UNPROMPT__REGISTRY__URL", url.as_str())];
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let up = Up::start_with(&data_dir, &environment);

    let sent = publish_evolved_prompt(folder.path(), &up.kafka, &registry, "a red fox in the snow");
    assert_eq!(sent[0], 0);
    wait_for("the indexed prompt", || {
        let output = talk(&data_dir, &environment, &["--json", "query", "--text", "a red fox in the snow"]);
        let hits: Value = serde_json::from_slice(&output.stdout).ok()?;
        (hits[0]["text"] == "a red fox in the snow").then_some(())
    });

    let picture = folder.path().join("picture.png");
    std::fs::write(&picture, png(200, 30, 30)).unwrap();
    let predicted = answer(&data_dir, &environment, &["--json", "predict", picture.to_str().unwrap()]);
    let predicted: Value = serde_json::from_str(&predicted).unwrap();
    for (topic, record) in [
        (Topic::PromptEmbeddings, "PromptEmbedding"),
        (Topic::ImageEmbeddings, "ImageEmbedding"),
        (Topic::Predictions, Prediction::NAME),
    ] {
        let records = read(&up.kafka, topic).await;
        let schema = registered_schema(&registry, records[0].value.as_deref().unwrap());
        assert_eq!(schema["name"], record);
    }
    let consumed = must_succeed(python(SCRIPT).args([
        "consume",
        &up.kafka.brokers,
        &registry.url(),
        Topic::Predictions.base_name(),
        "1",
    ]));
    let consumed: Value = serde_json::from_str(consumed.trim()).unwrap();
    assert_eq!(consumed["image_id"], predicted["image_id"]);
    assert_eq!(consumed["neighbours"][0]["text"], "a red fox in the snow");
    assert!(read(&up.kafka, Topic::DeadLetters).await.is_empty());

    let tailed = answer(
        &data_dir,
        &environment,
        &["topics", "tail", Topic::Prompts.base_name(), "--from-beginning", "-n", "1"],
    );
    assert!(tailed.contains("a red fox in the snow"), "{tailed}");
    let checks = answer(&data_dir, &environment, &["--json", "doctor"]);
    let checks: Value = serde_json::from_str(&checks).unwrap();
    let check = checks.as_array().unwrap().iter().find(|check| check["what"] == "schema registry").unwrap();
    assert_eq!(check["ok"], true, "{check}");
}

/// Runs `unprompt up` on a data directory; returns its output after it ended by itself with an
/// error.
fn ends_saying(data_dir: &Path, environment: &[(&str, &str)]) -> String {
    let mut command = unprompt();
    command.args(["up", "--broker-port", "0", "--index-port", "0", "--http-port", "0", "--log", "warn"]);
    command.arg("--data-dir").arg(data_dir).envs(environment.iter().copied()).stderr(Stdio::piped());
    let mut up = Ended(command.spawn().unwrap());
    let status = wait_for("its end", || up.0.try_wait().unwrap());
    assert!(!status.success(), "it ended well");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut up.0.stderr.take().unwrap(), &mut said).unwrap();
    said
}

/// Killed if the test ends first.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Given no registry, when somebody publishes a prompt of five bytes that only a registry could
/// explain, then it is a dead letter of each reader, and the services continue.
#[tokio::test(flavor = "multi_thread")]
async fn confluent_framing_without_a_registry_is_a_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let prompt = |value: &[u8]| OutputRecord {
        topic: Topic::Prompts,
        key: None,
        value: Some(value.to_vec()),
        headers: Vec::new(),
    };
    publish(&up.kafka, vec![prompt(&[0, 0, 0, 0, 1]), prompt(b"a red fox in the snow")]).await;
    let what = "a dead letter of each reader of prompts";
    let dead = read_until(&up.kafka, Topic::DeadLetters, what, |dead| dead.len() == 2).await;
    for letter in dead {
        let code = letter.headers.iter().find(|(name, _)| name == names::CODE);
        assert_eq!(code.map(|(_, code)| code.as_slice()), Some(&b"registry-needed"[..]));
    }
    let what = "the embedding of the prompt behind it";
    read_until(&up.kafka, Topic::PromptEmbeddings, what, |embeddings| embeddings.len() == 1).await;
    assert!(up.terminate());
}

/// Given a registry that services may not register with, then they end before they take a record,
/// and say what to do; once it is done, they start.
#[test]
fn services_do_not_start_with_unregistered_schemas() {
    let registry = TestRegistry::start();
    let (url, folder) = (registry.url(), tempfile::tempdir().unwrap());
    let environment = [("UNPROMPT__REGISTRY__URL", url.as_str()), ("UNPROMPT__REGISTRY__REGISTER", "false")];
    let said = ends_saying(folder.path(), &environment);
    assert!(said.contains("v1-value") && said.contains("unprompt schemas register"), "{said}");
    answer(folder.path(), &environment, &["schemas", "register"]);
    let up = Up::start_with(folder.path(), &environment);
    assert!(up.terminate());
}

/// Given a registry that is unavailable at the start, then the services are not ready and wait for
/// it.
#[test]
fn services_wait_for_an_unavailable_registry_at_startup() {
    let mut registry = TestRegistry::start();
    registry.kill();
    let (url, folder) = (registry.url(), tempfile::tempdir().unwrap());
    let mut up = Up::start_unready(folder.path(), &[("UNPROMPT__REGISTRY__URL", url.as_str())]);
    wait_for("the services' health", || {
        let health = get(up.http, "/readyz")?;
        assert!(health.starts_with("HTTP/1.1 503"), "{health}");
        health.contains("predictor").then_some(())
    });
    registry.start_again();
    up.wait_ready();
    assert!(up.terminate());
}

#[test]
fn the_schemas_are_listed_shown_registered_and_checked() {
    let registry = TestRegistry::start();
    let (url, folder) = (registry.url(), tempfile::tempdir().unwrap());
    let environment = [("UNPROMPT__REGISTRY__URL", url.as_str()), ("UNPROMPT__KAFKA__PREFIX", "team.")];
    let answer = |args: &[&str]| answer(folder.path(), &environment, args);

    let listed: Value = serde_json::from_str(&answer(&["--json", "schemas", "list"])).unwrap();
    let subjects: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["subject"].clone()).collect();
    let wanted = CurrentSchema::all().map(|one| subject(&format!("team.{}", one.topic.base_name())));
    assert_eq!(subjects, wanted);
    for name in ["prediction", "predictions.v1", "team.predictions.v1-value"] {
        let shown: Value = serde_json::from_str(&answer(&["schemas", "show", name])).unwrap();
        assert_eq!(shown, serde_json::from_str::<Value>(Prediction::SCHEMA_JSON).unwrap());
    }
    assert!(answer(&["schemas", "check"]).contains("not registered, compatible"));
    answer(&["schemas", "register", "--compatibility", "full_transitive"]);
    let checked = answer(&["schemas", "check"]);
    assert_eq!(checked.matches("registered: version 1").count(), 5, "{checked}");

    let nowhere = talk(folder.path(), &[], &["schemas", "check"]);
    assert!(complaint(&nowhere).contains("no schema registry is configured"));
}

/// Given that another release registered an incompatible schema, then `check` fails before a
/// service would.
#[test]
fn an_incompatible_schema_fails_the_check_and_the_registration() {
    let registry = TestRegistry::start();
    let (url, folder) = (registry.url(), tempfile::tempdir().unwrap());
    let other = Prompt::SCHEMA_JSON.replace(r#""name": "text""#, r#""name": "words""#);
    curl("POST", &format!("{url}/subjects/prompts.v1-value/versions"), &json!({"schema": other}));
    curl("PUT", &format!("{url}/config/prompts.v1-value"), &json!({"compatibility": "FULL"}));
    let environment = [("UNPROMPT__REGISTRY__URL", url.as_str())];
    let said = complaint(&talk(folder.path(), &environment, &["schemas", "check"]));
    assert!(said.contains("1 of 5 schemas are incompatible"), "{said}");
    let said = complaint(&talk(folder.path(), &environment, &["schemas", "register"]));
    assert!(said.contains("prompts.v1-value") && said.contains("only compatible changes"), "{said}");
}

/// The error output of a failed command.
fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "it succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends a request with curl, as an operator would.
fn curl(method: &str, url: &str, body: &Value) {
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "-X", method, "-H", "content-type: application/json", "-d", &body.to_string(), url]);
    must_succeed(&mut curl);
}
