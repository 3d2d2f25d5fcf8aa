//! Pictures in S3: moto's server, and answers that it does not give.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};
use unprompt_stream::BatchError;

use crate::support::{Count, Fetching, claim, embedding, png};

/// moto's S3 with the bucket `pictures`, until the test ends.
struct S3 {
    server: Child,
    endpoint: String,
}

impl S3 {
    fn start(folder: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/s3_server.py");
        let mut server = Command::new(python())
            .arg(script)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut endpoint = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
        assert!(endpoint.starts_with("http://"), "moto's server did not start: {endpoint:?}");
        Self { server, endpoint: endpoint.trim().to_owned() }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The interpreter that `make test` set up: $UNPROMPT_TEST_PYTHON, or the default location.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let made = || cache.unwrap_or_else(home).join("unprompt/test-python/bin/python");
    let python = std::env::var_os("UNPROMPT_TEST_PYTHON").map(PathBuf::from).unwrap_or_else(made);
    assert!(python.is_file(), "{} is not there; `make test` sets it up", python.display());
    python
}

fn settings(endpoint: &str, allow: &[&str]) -> Value {
    json!({"allow": allow, "s3": {
        "endpoint": endpoint, "allow_http": true, "access_key_id": "testing", "secret_access_key": "hunter2",
    }})
}

#[test]
fn pictures_are_fetched_from_an_s3_compatible_store() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a b.png"), png(1)).unwrap();
    fs::write(folder.path().join("large.png"), vec![0; 200_000]).unwrap();
    let s3 = S3::start(folder.path());
    let mut fetching = Fetching::new();
    let mut own = settings(&s3.endpoint, &["s3://pictures", "s3://other-bucket/"]);
    own["max_bytes"] = json!(100_000);
    fetching.configure(own);

    embedding(&fetching.fetch("s3://pictures/a%20b.png"));
    let (code, reason) = fetching.refuse("s3://pictures/missing.png");
    assert_eq!(code, "picture-not-found");
    assert!(reason.contains("NoSuchKey") && !reason.contains("hunter2"), "{reason}");
    let (code, reason) = fetching.refuse("s3://pictures/%3CCode%3EInvalidToken%3C.png");
    assert_eq!(code, "picture-not-found", "a key that looks like an answer is a key: {reason}");
    assert!(reason.contains("NoSuchKey"), "{reason}");
    let (code, reason) = fetching.refuse("s3://other-bucket/1.png");
    assert_eq!(code, "picture-not-found");
    assert!(reason.contains("NoSuchBucket"), "{reason}");
    assert_eq!(fetching.refuse("s3://pictures/large.png").0, "image-too-large");
    assert_eq!(fetching.refuse("s3://third-bucket/1.png").0, "uri-not-allowed");
    assert_eq!(fetching.refuse("s3://pictures/folder//1.png").0, "bad-uri");

    drop(s3);
    assert!(fetching.wait("s3://pictures/a%20b.png").contains("s3://pictures/a%20b.png"));
}

#[test]
fn only_the_allowed_part_of_a_bucket_is_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("public.png"), png(1)).unwrap();
    fs::write(folder.path().join("secret.png"), png(1)).unwrap();
    let s3 = S3::start(folder.path());
    let mut fetching = Fetching::new();
    fetching.configure(settings(&s3.endpoint, &["s3://pictures/public.png"]));
    embedding(&fetching.fetch("s3://pictures/public.png"));
    assert_eq!(fetching.refuse("s3://pictures/secret.png").0, "uri-not-allowed");
    assert_eq!(fetching.refuse("s3://pictures/public.png/../secret.png").0, "uri-not-allowed");
}

/// A store that gives this answer to every request.
fn answering(fetching: &Fetching, status: StatusCode, code: &'static str) -> String {
    let answer =
        move || async move { (status, format!("<Error><Code>{code}</Code><Message>no</Message></Error>")) };
    format!("http://{}", fetching.serve(Router::new().fallback(answer)))
}

#[test]
fn wrong_keys_stop_the_service_instead_of_emptying_the_topic() {
    let mut fetching = Fetching::new();
    let endpoint = answering(&fetching, StatusCode::FORBIDDEN, "InvalidAccessKeyId");
    fetching.configure(settings(&endpoint, &["s3://pictures"]));
    let failed = fetching.process(&[claim(0, "s3://pictures/1.png")]).unwrap_err();
    let BatchError::Fatal(reason) = failed else { panic!("{failed:?}") };
    assert!(reason.contains("InvalidAccessKeyId") && reason.contains("[claim_check.s3]"), "{reason}");
}

#[test]
fn a_denied_object_is_rejected_and_an_overloaded_store_makes_the_batch_wait() {
    let mut fetching = Fetching::new();
    let denied = answering(&fetching, StatusCode::FORBIDDEN, "AccessDenied");
    fetching.configure(settings(&denied, &["s3://pictures"]));
    let (code, reason) = fetching.refuse("s3://pictures/1.png");
    assert_eq!(code, "picture-not-found");
    assert!(reason.contains("AccessDenied"), "{reason}");
    let overloaded = answering(&fetching, StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
    fetching.configure(settings(&overloaded, &["s3://pictures"]));
    assert!(fetching.wait("s3://pictures/1.png").contains("SlowDown"));
}

#[test]
fn an_object_that_fails_alone_is_given_up() {
    let mut fetching = Fetching::new();
    let answer = |uri: Uri| async move {
        let status = if uri.path().ends_with("/broken.png") {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::NOT_FOUND
        };
        (status, "<Error><Code>InternalError</Code></Error>")
    };
    let server = fetching.serve(Router::new().fallback(answer));
    fetching.configure(settings(&format!("http://{server}"), &["s3://pictures/of-today/"]));
    assert_eq!(fetching.refuse("s3://pictures/of-today/broken.png").0, "picture-unavailable");
}

#[test]
fn redirects_from_an_s3_store_are_not_followed() {
    let (mut fetching, asked) = (Fetching::new(), Count::default());
    let elsewhere = {
        let asked = asked.clone();
        fetching.serve(Router::new().fallback(move || async move {
            asked.one();
            png(1)
        }))
    };
    let to = format!("http://{elsewhere}/1.png");
    let server = Router::new().fallback(move || async move { axum::response::Redirect::temporary(&to) });
    let server = fetching.serve(server);
    fetching.configure(settings(&format!("http://{server}"), &["s3://pictures"]));
    fetching.wait("s3://pictures/1.png");
    assert_eq!(asked.get(), 0);
}

#[test]
fn requests_are_signed_only_when_keys_are_set() {
    let mut fetching = Fetching::new();
    let answer = |headers: HeaderMap| async move {
        match headers.contains_key("authorization") {
            true => (StatusCode::OK, png(1)),
            false => (StatusCode::FORBIDDEN, b"<Error><Code>AccessDenied</Code></Error>".to_vec()),
        }
    };
    let server = fetching.serve(Router::new().fallback(answer));
    let endpoint = format!("http://{server}");
    fetching.configure(settings(&endpoint, &["s3://pictures"]));
    embedding(&fetching.fetch("s3://pictures/1.png"));
    fetching.configure(json!({"allow": ["s3://pictures"], "s3": {"endpoint": endpoint, "allow_http": true}}));
    assert_eq!(fetching.refuse("s3://pictures/1.png").0, "picture-not-found");
}
