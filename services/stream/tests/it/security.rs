//! TLS and SASL against an Apache Kafka that requires authentication: each way in works, and each
//! mistake is an error that says what to do.

use std::process::Stdio;
use std::time::Duration;

use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::config::{Log, LogFormat, Mechanism, Protocol, Security};
use unprompt_stream::{
    KafkaConfig, Profile, Publisher, Secret, Start, StreamError, Tail, ensure_topics, list_topics, telemetry,
    try_transactions,
};
use unprompt_test_kafka::certificates::KEY_PASSWORD;
use unprompt_test_kafka::{LIMITED_USER, PLAIN_USER, SCRAM_USER, SecureKafka, TOKEN_CLIENT};

use crate::support::*;

async fn broker() -> &'static SecureKafka {
    tokio::task::spawn_blocking(SecureKafka::shared).await.unwrap()
}

/// A configuration under a prefix of the test's own.
fn at(brokers: String, security: Security) -> KafkaConfig {
    let prefix = Prefix::new(&format!("{}.", uuid::Uuid::new_v4().simple())).unwrap();
    KafkaConfig { prefix, profile: Profile::Kafka, security, ..KafkaConfig::embedded(brokers) }
}

fn sasl(protocol: Protocol, mechanism: Mechanism, (username, password): (&str, &str)) -> Security {
    Security {
        protocol,
        mechanism: Some(mechanism),
        username: Some(username.to_owned()),
        password: Some(password.into()),
        ..Security::default()
    }
}

fn scram(broker: &SecureKafka, user: (&str, &str)) -> KafkaConfig {
    let security = sasl(Protocol::SaslSsl, Mechanism::ScramSha512, user);
    at(broker.sasl_ssl(), Security { ca_file: Some(broker.authority.file.clone()), ..security })
}

fn mutual_tls(broker: &SecureKafka) -> KafkaConfig {
    let security = Security {
        protocol: Protocol::Ssl,
        ca_file: Some(broker.authority.file.clone()),
        certificate_file: Some(broker.client.file.clone()),
        key_file: Some(broker.client.key.clone()),
        ..Security::default()
    };
    at(broker.mutual_tls(), security)
}

fn bearer(brokers: String, properties: &[(&str, &str)]) -> KafkaConfig {
    let security = Security {
        protocol: Protocol::SaslPlaintext,
        mechanism: Some(Mechanism::OauthBearer),
        ..Security::default()
    };
    let mut kafka = at(brokers, security);
    kafka.properties = properties.iter().map(|(name, value)| ((*name).into(), Secret::new(*value))).collect();
    kafka
}

fn token(broker: &SecureKafka, secret: &str) -> KafkaConfig {
    let properties = [
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.client.id", TOKEN_CLIENT.0),
        ("sasl.oauthbearer.client.secret", secret),
        ("sasl.oauthbearer.token.endpoint.url", &broker.issuer.endpoint_url()),
        ("sasl.oauthbearer.scope", "all"),
    ];
    bearer(broker.bearer(), &properties)
}

/// Checks that everything that talks to Kafka works: admin, producer, reader, and the runner
/// with its transactions.
async fn passes_records(kafka: &KafkaConfig) {
    kafka.check().unwrap();
    within("the topics", ensure_topics(kafka)).await.unwrap();
    publish(kafka, 0..200).await;
    let run = RunningStage::copying(kafka);
    take_until_complete(kafka, Topic::ImageEmbeddings, 0..200).await;
    run.stop().await;
    assert_exactly_once(&all(kafka, Topic::ImageEmbeddings).await, 0..200);
}

/// Checks that every first contact with Kafka soon ends with this error and advice.
async fn refused(kafka: &KafkaConfig, is_it: fn(&StreamError) -> bool, advice: &str) {
    let publisher = Publisher::new(kafka).unwrap();
    let said = [
        within("listing", list_topics(kafka)).await.unwrap_err(),
        within("making topics", ensure_topics(kafka)).await.unwrap_err(),
        within("opening a tail", Tail::new(kafka, &[Topic::Images], Start::End)).await.unwrap_err(),
        within("publishing", publisher.publish(numbered(0))).await.unwrap_err(),
        within("transactions", try_transactions(kafka)).await.unwrap_err(),
        RunningStage::copying(kafka).failure().await,
    ];
    for error in said {
        let text = error.to_string();
        assert!(is_it(&error), "{error:?}");
        assert!(text.contains(advice) && text.contains(&kafka.brokers), "{text}");
        assert_no_secret(&text);
    }
}

fn assert_no_secret(text: &str) {
    // The last one is the beginning of a signed token.
    let secrets =
        [SCRAM_USER.1, LIMITED_USER.1, PLAIN_USER.1, TOKEN_CLIENT.1, KEY_PASSWORD, WRONG, "eyJhbGciOi"];
    let shown = secrets.iter().find_map(|secret| text.lines().find(|line| line.contains(secret)));
    assert_eq!(shown, None, "a secret was printed");
}

const WRONG: &str = "wrong-as-can-be-2f6e";

#[tokio::test(flavor = "multi_thread")]
async fn records_pass_exactly_once_over_tls_with_scram() {
    let broker = broker().await;
    passes_records(&scram(broker, SCRAM_USER)).await;
    let mut kafka = scram(broker, SCRAM_USER);
    kafka.security.mechanism = Some(Mechanism::ScramSha256);
    within("the topics", ensure_topics(&kafka)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_pass_over_tls_with_plain() {
    let broker = broker().await;
    let mut kafka = scram(broker, PLAIN_USER);
    kafka.security.mechanism = Some(Mechanism::Plain);
    passes_records(&kafka).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_pass_with_mutual_tls() {
    let broker = broker().await;
    passes_records(&mutual_tls(broker)).await;
    let mut kafka = mutual_tls(broker);
    kafka.security.key_file = Some(broker.client.encrypted_key());
    kafka.security.key_password = Some(KEY_PASSWORD.into());
    within("the topics", ensure_topics(&kafka)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_pass_with_unsigned_tokens() {
    let unsigned =
        [("enable.sasl.oauthbearer.unsecure.jwt", "true"), ("sasl.oauthbearer.config", "principal=carol")];
    passes_records(&bearer(broker().await.sasl_plaintext(), &unsigned)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_pass_with_tokens_from_an_oidc_issuer() {
    passes_records(&token(broker().await, TOKEN_CLIENT.1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_reported_soon_and_stops_a_service() {
    let broker = broker().await;
    let is_it = |error: &StreamError| matches!(error, StreamError::Credentials { .. });
    refused(&scram(broker, (SCRAM_USER.0, WRONG)), is_it, "password in [kafka.security]").await;
    let mut plain = scram(broker, (PLAIN_USER.0, WRONG));
    plain.security.mechanism = Some(Mechanism::Plain);
    refused(&plain, is_it, "password in [kafka.security]").await;
}

/// librdkafka reports the same refusal every 30 seconds, so this takes a little longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_stops_when_its_user_is_removed() {
    const USER: (&str, &str) = ("tom", "tom-knows-3e90");
    let broker = broker().await;
    tokio::task::spawn_blocking(|| broker.add_user(USER)).await.unwrap();
    let kafka = at(broker.brief(), sasl(Protocol::SaslPlaintext, Mechanism::ScramSha512, USER));
    within("the topics", ensure_topics(&kafka)).await.unwrap();
    publish(&kafka, 0..10).await;
    let run = RunningStage::copying(&kafka);
    take(&kafka, Topic::ImageEmbeddings, 10).await;
    tokio::task::spawn_blocking(|| broker.remove_user(USER.0)).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(120), run.ended()).await.expect("it ends");
    let error = ended.unwrap_err();
    assert!(matches!(error, StreamError::Credentials { .. }), "{error:?}");
    assert!(!error.to_string().contains(USER.1), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mechanism_that_the_broker_lacks_is_reported() {
    let broker = broker().await;
    let mut kafka = scram(broker, SCRAM_USER);
    kafka.brokers = broker.bearer();
    kafka.security.protocol = Protocol::SaslPlaintext;
    kafka.security.ca_file = None;
    let is_it = |error: &StreamError| matches!(error, StreamError::Credentials { .. });
    refused(&kafka, is_it, "check mechanism").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_token_is_reported_without_the_secret() {
    let kafka = token(broker().await, WRONG);
    let error = within("the answer", list_topics(&kafka)).await.unwrap_err();
    assert!(matches!(error, StreamError::Credentials { .. }), "{error:?}");
    assert!(error.to_string().contains("sasl.oauthbearer.*"), "{error}");
    assert_no_secret(&error.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_authority_is_reported() {
    let broker = broker().await;
    let mut kafka = scram(broker, SCRAM_USER);
    kafka.security.ca_file = Some(broker.stranger.file.clone());
    refused(&kafka, |error| matches!(error, StreamError::Tls { .. }), "ca_file").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_host_is_reported_unless_verify_hostname_is_off() {
    let broker = broker().await;
    let mut kafka = scram(broker, SCRAM_USER);
    kafka.brokers = kafka.brokers.replace("127.0.0.1", "localhost");
    refused(&kafka, |error| matches!(error, StreamError::Tls { .. }), "verify_hostname").await;
    kafka.security.verify_hostname = false;
    within("the topics", ensure_topics(&kafka)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_client_certificate_is_reported() {
    let mut kafka = mutual_tls(broker().await);
    (kafka.security.certificate_file, kafka.security.key_file) = (None, None);
    let error = within("the answer", list_topics(&kafka)).await.unwrap_err();
    assert!(matches!(error, StreamError::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains("certificate_file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_with_another_protocol_is_reported() {
    let broker = broker().await;
    for (brokers, protocol) in [
        (broker.mutual_tls(), Protocol::Plaintext),
        (broker.plaintext(), Protocol::Ssl),
        (broker.bearer(), Protocol::Plaintext),
    ] {
        let kafka = at(brokers, Security { protocol, ..Security::default() });
        let error = within("the answer", list_topics(&kafka)).await.unwrap_err();
        let is_it = matches!(error, StreamError::Unreachable { .. } | StreamError::Tls { .. });
        assert!(is_it && error.to_string().contains("protocol is the listener's"), "{protocol:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_password_is_reported_without_the_password() {
    let broker = broker().await;
    let mut kafka = mutual_tls(broker);
    kafka.security.key_file = Some(broker.client.encrypted_key());
    kafka.security.key_password = Some(WRONG.into());
    let error = ensure_topics(&kafka).await.unwrap_err();
    assert!(matches!(error, StreamError::Client(_)), "{error:?}");
    assert!(error.to_string().contains("[kafka.security]"), "{error}");
    assert_no_secret(&error.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_write_permission_stops_the_service() {
    let broker = broker().await;
    let kafka = scram(broker, SCRAM_USER);
    ensure_topics(&kafka).await.unwrap();
    publish(&kafka, 0..10).await;
    let topic = kafka.prefix.name(Topic::ImageEmbeddings);
    tokio::task::spawn_blocking(move || broker.forbid_writing(&topic)).await.unwrap();
    let limited = KafkaConfig { prefix: kafka.prefix.clone(), ..scram(broker, LIMITED_USER) };
    let error = RunningStage::copying(&limited).failure().await;
    let is_it = matches!(&error, StreamError::Delivery { topic, .. } if topic == "image-embeddings.v1");
    assert!(is_it, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_stops_a_service_that_may_not_create_it() {
    let broker = broker().await;
    let kafka = scram(broker, SCRAM_USER);
    ensure_topics(&kafka).await.unwrap();
    let topic = kafka.prefix.name(Topic::Images);
    tokio::task::spawn_blocking(move || broker.forbid_creating(&topic)).await.unwrap();
    let limited = KafkaConfig { prefix: kafka.prefix.clone(), ..scram(broker, LIMITED_USER) };
    let run = RunningStage::copying(&limited);
    run.ready().await;
    let unsecured = KafkaConfig { prefix: kafka.prefix.clone(), ..KafkaConfig::embedded(broker.plaintext()) };
    delete_topic(&unsecured, Topic::Images).await;
    let error = run.failure().await;
    assert!(matches!(&error, StreamError::TopicNotCreated { .. }), "{error:?}");
    assert!(error.to_string().contains(&kafka.prefix.name(Topic::Images)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is run by the test below, in a process of its own"]
async fn the_process_that_logs_everything() {
    telemetry::init(&Log { format: LogFormat::Text, filter: "trace".into() }).unwrap();
    let broker = broker().await;
    let mut plain = scram(broker, PLAIN_USER);
    plain.security.mechanism = Some(Mechanism::Plain);
    let mut key = mutual_tls(broker);
    key.security.key_file = Some(broker.client.encrypted_key());
    key.security.key_password = Some(KEY_PASSWORD.into());
    let wrong = scram(broker, (SCRAM_USER.0, WRONG));
    for mut kafka in [scram(broker, SCRAM_USER), plain, key, token(broker, TOKEN_CLIENT.1), wrong] {
        kafka.properties.insert("debug".into(), "all".into());
        let made = ensure_topics(&kafka).await;
        println!("{kafka:?} {made:?}");
        if made.is_ok() {
            let run = RunningStage::copying(&kafka);
            run.ready().await;
            publish(&kafka, 0..10).await;
            take(&kafka, Topic::ImageEmbeddings, 10).await;
            run.stop().await;
        }
    }
    println!("it has said all");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_output_nor_logs_contain_a_secret() {
    let process = this_binary("security::the_process_that_logs_everything").stderr(Stdio::piped()).output();
    let output = process.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, logged) = (text(&output.stdout), text(&output.stderr));
    assert!(said.contains("it has said all"), "{said}\n{logged}");
    for part in ["sasl.password = [redacted]", "SCRAM", "OAUTHBEARER", "AUTH_REQ"] {
        assert!(logged.contains(part), "{part} is not in what librdkafka says of itself");
    }
    assert_no_secret(&said);
    assert_no_secret(&logged);
}
