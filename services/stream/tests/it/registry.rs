//! The schema registry client against a real registry, and how a stage behaves while the registry
//! is unreachable.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use serde_json::{Value, json};
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{CurrentSchema, Prompt, PromptEmbedding, Record};
use unprompt_schemas::registry::{Registry as _, RegistryError, subject};
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::config;
use unprompt_stream::{
    Compatibility, InputRecord, Outcome, OutputRecord, Parsed, ParsedBatch, Registered, RunnerConfig,
    SchemaRegistry, Secret, StreamError, read_records,
};
use unprompt_test_registry::TestRegistry;

use crate::support::*;

fn section(url: impl Into<String>) -> config::RegistryConfig {
    config::RegistryConfig {
        url: Some(url.into()),
        register: true,
        username: None,
        password: None,
        token: None,
        ca_file: None,
        timeout_ms: 10_000,
    }
}

fn client(section: &config::RegistryConfig) -> SchemaRegistry {
    SchemaRegistry::new(section).unwrap().unwrap()
}

/// A client of the registry that all tests share, and a prefix of the test's own for its subjects.
fn shared() -> (SchemaRegistry, Prefix) {
    let prefix = Prefix::new(&format!("{}.", uuid::Uuid::new_v4().simple())).unwrap();
    (client(&section(TestRegistry::shared().url())), prefix)
}

fn subject_of(prefix: &Prefix, topic: Topic) -> String {
    subject(&prefix.name(topic))
}

/// The current schema of a record with a change to its fields.
fn changed<R: Record>(change: impl FnOnce(&mut Vec<Value>)) -> String {
    let mut schema: Value = serde_json::from_str(R::SCHEMA_JSON).unwrap();
    change(schema["fields"].as_array_mut().unwrap());
    schema.to_string()
}

/// A value in Confluent framing.
fn framed(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], datum].concat()
}

fn prompt(text: &str) -> Prompt {
    Prompt { text: text.into(), source: "test".into(), seeds: vec![7], ..Prompt::default() }
}

#[test]
fn our_schemas_register_under_their_topics_subjects_and_keep_their_ids() {
    let (registry, prefix) = shared();
    for schema in CurrentSchema::all() {
        let subject = subject_of(&prefix, schema.topic);
        assert_eq!(registry.lookup(&subject, schema.json).unwrap(), None);
        let id = registry.id_of(&subject, schema.json).unwrap();
        assert_eq!(registry.id_of(&subject, schema.json).unwrap(), id, "a second registration");
        assert_eq!(registry.lookup(&subject, schema.json).unwrap(), Some(Registered { id, version: 1 }));
        let stored: Value = serde_json::from_str(&registry.schema_of(id).unwrap()).unwrap();
        assert_eq!(stored["name"], schema.record);
        assert_eq!(stored["fields"].as_array().map(Vec::len), fields(schema.json));
    }
}

fn fields(schema: &str) -> Option<usize> {
    serde_json::from_str::<Value>(schema).unwrap()["fields"].as_array().map(Vec::len)
}

#[test]
fn records_of_one_process_are_read_by_another_through_the_registry() {
    let (registry, prefix) = shared();
    let writer = Codec::confluent(Arc::new(registry));
    let bytes = writer.encode(&prefix.name(Topic::Prompts), &prompt("a red fox")).unwrap();
    assert_eq!(bytes[0], 0);
    let reader = Codec::confluent(Arc::new(shared().0));
    assert_eq!(reader.decode::<Prompt>(&bytes).unwrap(), prompt("a red fox"));
}

#[test]
fn a_writer_schema_with_added_removed_and_narrowed_fields_is_read() {
    let (registry, prefix) = shared();
    let evolved = changed::<Prompt>(|fields| {
        fields.retain(|field| field["name"] != "attributes");
        fields[2]["type"]["items"] = json!("int");
        fields.push(json!({"name": "mood", "type": "string", "default": ""}));
    });
    let id = registry.id_of(&subject_of(&prefix, Topic::Prompts), &evolved).unwrap();
    // "an owl", "test", the seeds 3 and -4 in one block, "calm".
    let datum = b"\x0can owl\x08test\x04\x06\x07\x00\x08calm";
    let read: Prompt = Codec::confluent(Arc::new(registry)).decode(&framed(id, datum)).unwrap();
    let wanted = Prompt { text: "an owl".into(), seeds: vec![3, -4], ..prompt("") };
    assert_eq!(read, wanted);
}

#[test]
fn an_incompatible_change_is_refused_under_full_transitive_compatibility() {
    let (registry, prefix) = shared();
    let subject = subject_of(&prefix, Topic::Prompts);
    registry.id_of(&subject, Prompt::SCHEMA_JSON).unwrap();
    registry.set_compatibility(&subject, "FULL_TRANSITIVE").unwrap();

    let added = changed::<Prompt>(|fields| fields.push(json!({"name": "mood", "type": "string"})));
    assert!(matches!(registry.compatibility(&subject, &added).unwrap(), Compatibility::Incompatible(_)));
    let error = registry.id_of(&subject, &added).unwrap_err();
    assert!(matches!(&error, RegistryError::Incompatible { record, .. } if record == "Prompt"), "{error:?}");
    assert!(error.to_string().contains(&subject), "{error}");
    assert!(SchemaError::from(error).is_fatal());

    let with_default =
        changed::<Prompt>(|fields| fields.push(json!({"name": "mood", "type": "string", "default": ""})));
    assert_eq!(registry.compatibility(&subject, &with_default).unwrap(), Compatibility::Compatible);
    registry.id_of(&subject, &with_default).unwrap();
}

#[test]
fn an_unreadable_record_is_a_record_error_that_says_why() {
    let (registry, prefix) = shared();
    let renamed = changed::<Prompt>(|fields| fields[0]["name"] = json!("words"));
    let renamed = registry.id_of(&subject_of(&prefix, Topic::Prompts), &renamed).unwrap();
    let other = registry.id_of(&subject_of(&prefix, Topic::PromptEmbeddings), PromptEmbedding::SCHEMA_JSON);
    let no_avro = register_json_schema(&format!("{prefix}json-value"));
    let codec = Codec::confluent(Arc::new(registry));
    let cases = [
        (framed(renamed, b"\x02a\x00\x00\x00"), "incompatible-schema", "text"),
        (framed(other.unwrap(), b""), "wrong-record", "PromptEmbedding"),
        (framed(no_avro, b"{}"), "incompatible-schema", "JSON, not Avro"),
        (framed(9_999_999, b"\x00"), "unknown-schema", "9999999"),
        (framed(u32::MAX, b"\x00"), "unknown-schema", "publish again"),
    ];
    for (bytes, code, words) in cases {
        let error = codec.decode::<Prompt>(&bytes).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.is_fatal() && !error.is_transient(), "{error}");
    }
}

fn register_json_schema(subject: &str) -> u32 {
    let schema = json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"});
    let body = json!({"schemaType": "JSON", "schema": schema.to_string()});
    let url = format!("{}/subjects/{subject}/versions", TestRegistry::shared().url());
    let asked = reqwest::blocking::Client::new().post(url).header("content-type", "application/json");
    let answer = asked.body(body.to_string()).send().unwrap().text().unwrap();
    let id = serde_json::from_str::<Value>(&answer).unwrap()["id"].as_u64();
    id.unwrap_or_else(|| panic!("not registered: {answer}")) as u32
}

#[test]
fn a_service_that_may_not_register_says_which_schema_is_missing_and_where() {
    let (registry, prefix) = shared();
    let subject = subject_of(&prefix, Topic::Prompts);
    let reader = client(&config::RegistryConfig { register: false, ..section(TestRegistry::shared().url()) });
    let error = reader.id_of(&subject, Prompt::SCHEMA_JSON).unwrap_err();
    assert_eq!(error, RegistryError::NotRegistered { subject: subject.clone(), record: "Prompt".to_owned() });
    assert!(error.to_string().contains("unprompt schemas register"), "{error}");
    assert!(SchemaError::from(error).is_fatal());
    let id = registry.register(&subject, Prompt::SCHEMA_JSON).unwrap();
    assert_eq!(reader.id_of(&subject, Prompt::SCHEMA_JSON).unwrap(), id);
}

/// Given an address where nobody listens, the next one is asked.
#[test]
fn the_addresses_are_tried_in_turn() {
    let nobody = unused_address();
    client(&section(format!("{nobody}, {}", TestRegistry::shared().url()))).check().unwrap();
    let error = client(&section(&nobody)).check().unwrap_err();
    assert!(matches!(&error, RegistryError::Unreachable { reason } if reason.contains(&nobody)), "{error:?}");
}

fn unused_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn an_address_without_a_schema_registry_is_reported() {
    let wrong = TestRegistry::shared().url().replace("/apis/ccompat/v7", "");
    let registry = client(&section(wrong));
    for error in [registry.check().unwrap_err(), registry.schema_of(1).unwrap_err()] {
        assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("no schema registry's"), "{error}");
    }
}

#[test]
fn a_registry_over_tls_is_trusted_only_with_its_ca_certificate() {
    let registry = TestRegistry::start_encrypted();
    let trusting =
        config::RegistryConfig { ca_file: Some(registry.certificate()), ..section(registry.url()) };
    client(&trusting).check().unwrap();
    let error = client(&section(registry.url())).check().unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

/// A server on a free port that gives this answer to every request of the tests.
async fn server(answer: fn(HeaderMap) -> (StatusCode, String)) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = get(move |headers: HeaderMap| async move { answer(headers) });
    let router = Router::new().route("/schemas/types", answer.clone()).route("/schemas/ids/5", answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn admits(headers: HeaderMap) -> (StatusCode, String) {
    // The first is `base64` of "unprompt:open sesame".
    let admitted = ["Basic dW5wcm9tcHQ6b3BlbiBzZXNhbWU=", "Bearer open-sesame"];
    match headers.get("authorization").is_some_and(|given| admitted.iter().any(|good| given == good)) {
        true => (StatusCode::OK, json!(["AVRO"]).to_string()),
        false => (StatusCode::UNAUTHORIZED, json!({"error_code": 40101, "message": "who?"}).to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_credentials_are_sent_and_never_printed() {
    let url = server(admits).await;
    let basic = |password: &str| config::RegistryConfig {
        username: Some("unprompt".into()),
        password: Some(Secret::new(password)),
        ..section(&url)
    };
    client(&basic("open sesame")).check().unwrap();
    client(&config::RegistryConfig { token: Some("open-sesame".into()), ..section(&url) }).check().unwrap();
    let stranger = client(&basic("hunter2"));
    let error = stranger.check().unwrap_err();
    assert!(matches!(&error, RegistryError::Refused { reason, .. } if reason.contains("who?")), "{error:?}");
    assert!(!format!("{stranger:?} {error} {error:?}").contains("hunter2"));
    assert!(SchemaError::from(error).is_fatal());
}

fn too_long(_: HeaderMap) -> (StatusCode, String) {
    (StatusCode::OK, json!({"schema": "x".repeat(1 << 20)}).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_more_than_a_mebibyte_is_not_read() {
    let registry = client(&section(server(too_long).await));
    let error = registry.schema_of(5).unwrap_err();
    assert!(matches!(error, RegistryError::Unusable { id: 5, .. }), "{error:?}");
}

fn overloaded(_: HeaderMap) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, String::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_registry_is_a_transient_error() {
    let registry = client(&section(server(overloaded).await));
    let error = SchemaError::from(registry.schema_of(5).unwrap_err());
    assert!(error.is_transient(), "{error}");
}

/// Given a runtime of one thread, which must not be blocked, the client still answers.
#[tokio::test]
async fn the_client_works_on_a_single_threaded_runtime() {
    let url = tokio::task::spawn_blocking(|| TestRegistry::shared().url()).await.unwrap();
    client(&section(url)).check().unwrap();
}

#[test]
fn invalid_registry_settings_are_reported_without_secrets() {
    let secret = || Some(Secret::new("hunter2"));
    let file = |name: &str| Some(PathBuf::from(name));
    let no_certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let plain = || section("http://127.0.0.1:8081");
    let cases = [
        (section(" , "), "is empty"),
        (section("registry:8081"), "http and https"),
        (section("not an address"), "is not an address"),
        (section("http://unprompt:hunter2@registry"), "as username and password"),
        (config::RegistryConfig { username: Some("unprompt".into()), ..plain() }, "write both"),
        (config::RegistryConfig { password: secret(), token: secret(), ..plain() }, "keep what"),
        (config::RegistryConfig { ca_file: file("/nowhere/ca.pem"), ..plain() }, "/nowhere/ca.pem"),
        (config::RegistryConfig { ca_file: file(no_certificate), ..plain() }, "no certificate in it"),
    ];
    for (section, words) in cases {
        let error = SchemaRegistry::new(&section).unwrap_err();
        assert!(matches!(error, StreamError::Config(_)));
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    assert!(SchemaRegistry::new(&config::RegistryConfig { url: None, ..plain() }).unwrap().is_none());
}

#[test]
fn a_token_is_taken_letter_for_letter_and_never_printed() {
    let variable = |name: &str, text: &str| (format!("UNPROMPT__REGISTRY__{name}"), text.to_owned());
    let environment = [variable("URL", "http://registry:8081"), variable("TOKEN", "0123")];
    let registry = crate::sections::load_with(None, environment, json!({})).unwrap().registry;
    assert_eq!(registry.token.as_ref().map(Secret::expose), Some("0123"));
    assert!(registry.register && !format!("{registry:?}").contains("0123"), "{registry:?}");
}

/// Given an unreadable record next to a good one, a job gets the good one. Given a record that only
/// a registry could explain, the job fails instead of getting fewer records.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_skips_bad_records_but_fails_without_a_needed_registry() {
    let kafka = Fixture::start().await;
    let (kafka, publisher) = (kafka.kafka(), unprompt_stream::Publisher::new(&kafka.kafka()).unwrap());
    let record =
        |value| OutputRecord { topic: Topic::Prompts, key: None, value: Some(value), headers: vec![] };
    let good = unprompt_schemas::codec::encode(&prompt("an owl")).unwrap();
    let cut = good[..good.len() - 1].to_vec();
    publisher.publish_many([cut, good].map(record)).await.unwrap();
    let mut read = Vec::new();
    let codec = Codec::single_object();
    read_records(&kafka, &codec, |prompt: Prompt| read.push(prompt.text)).await.unwrap();
    assert_eq!(read, ["an owl"]);

    publisher.publish(record(framed(1, b""))).await.unwrap();
    let error = read_records(&kafka, &codec, |_: Prompt| {}).await.unwrap_err();
    assert!(matches!(error, StreamError::Schema(SchemaError::RegistryNeeded { id: 1 })), "{error:?}");
}

/// Copies the records that are prompts, as the services do.
fn copy_prompts(codec: &Codec, batch: &[InputRecord]) -> Result<Vec<Outcome>, unprompt_stream::BatchError> {
    let parsed = ParsedBatch::parse(batch, |record| {
        let prompt: Prompt = codec.decode(record.value.as_deref().unwrap_or_default())?;
        Ok(Parsed::Input(prompt))
    })?;
    let copied = vec![(); parsed.inputs().len()];
    parsed.outcomes(copied, |record, _, ()| Ok(vec![unprompt_stream::pass_through::copy(record)]))
}

/// Given a registry that is killed, records whose schema only it knows wait, and are
/// processed when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn records_wait_while_the_registry_is_unreachable() {
    let mut registry = tokio::task::spawn_blocking(TestRegistry::start).await.unwrap();
    let client = Arc::new(client(&section(registry.url())));
    let evolved =
        changed::<Prompt>(|fields| fields.push(json!({"name": "mood", "type": "string", "default": ""})));
    let id = client.id_of("prompts.v1-value", &evolved).unwrap();
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    tokio::task::block_in_place(|| registry.kill());

    let tries = Arc::new(AtomicUsize::new(0));
    let (codec, counted) = (Codec::confluent(client), tries.clone());
    let config = RunnerConfig { retry_initial_ms: 10, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, move |batch| {
        counted.fetch_add(1, Ordering::Relaxed);
        copy_prompts(&codec, batch)
    });
    let value = framed(id, b"\x0can owl\x08test\x00\x00\x08calm");
    let record =
        |value| OutputRecord { topic: Topic::Images, key: None, value: Some(value), headers: vec![] };
    let publisher = unprompt_stream::Publisher::new(&kafka).unwrap();
    publisher.publish(record(value.clone())).await.unwrap();
    eventually("the batch is tried again", || tries.load(Ordering::Relaxed) >= 2).await;
    assert!(all(&kafka, Topic::DeadLetters).await.is_empty());
    assert!(all(&kafka, Topic::ImageEmbeddings).await.is_empty());

    tokio::task::block_in_place(|| registry.start_again());
    // A record with an id that nobody registered goes to the dead letters: the
    // registry is asked again.
    publisher.publish(record(framed(9_999, b""))).await.unwrap();
    let copied = take(&kafka, Topic::ImageEmbeddings, 1).await;
    assert_eq!(copied[0].value.as_deref(), Some(&value[..]));
    let dead = take(&kafka, Topic::DeadLetters, 1).await;
    assert_eq!(dead[0].value.as_deref(), Some(&framed(9_999, b"")[..]));
    let summary = run.stop().await;
    assert_eq!((summary.records_in, summary.dead_letters), (2, 1));
}
