//! The limits on bytes, time and concurrent fetches hold whatever a server sends.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::header::CONTENT_LENGTH;
use axum::routing::get;
use futures::stream::{self, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Barrier;

use crate::support::{Count, Fetching, claim, embedding, png};

const CHUNK: usize = 64 << 10;

#[test]
fn a_picture_with_a_too_large_content_length_is_not_read() {
    let (mut fetching, sent) = (Fetching::new(), Count::default());
    let app = Router::new().route(
        "/large.png",
        get({
            let sent = sent.clone();
            move || async move {
                let chunks = stream::iter(0..1600).map(move |_| {
                    sent.one();
                    Ok::<_, std::io::Error>(Bytes::from(vec![0; CHUNK]))
                });
                ([(CONTENT_LENGTH, 1600 * CHUNK)], Body::from_stream(chunks))
            }
        }),
    );
    let server = fetching.serve(app);
    let uri = format!("http://{server}/large.png");
    fetching.configure(json!({"allow": [format!("http://{server}")]}));
    let (code, reason) = fetching.refuse(&uri);
    assert_eq!(code, "image-too-large");
    assert!(reason.contains("20971520"), "the limit of pictures in records: {reason}");
    // The operating system buffers some of what is sent, whether or not it is read.
    let before = sent.get();
    fetching.configure(json!({"allow": [format!("http://{server}")], "max_bytes": 1500 * CHUNK}));
    assert_eq!(fetching.refuse(&uri).0, "image-too-large");
    assert!(sent.get() - before < 750, "{} of 1600 chunks were taken", sent.get() - before);
}

#[test]
fn a_picture_without_a_content_length_is_cut_off_at_the_limit() {
    let (mut fetching, sent) = (Fetching::new(), Count::default());
    let app = Router::new().route(
        "/endless.png",
        get({
            let sent = sent.clone();
            move || async move {
                Body::from_stream(stream::repeat_with(move || {
                    sent.one();
                    Ok::<_, std::io::Error>(Bytes::from(vec![0; CHUNK]))
                }))
            }
        }),
    );
    let server = fetching.serve(app);
    fetching.configure(json!({"allow": [format!("http://{server}")], "max_bytes": 10 * CHUNK}));
    let (code, _) = fetching.refuse(&format!("http://{server}/endless.png"));
    assert_eq!(code, "image-too-large");
    // The buffers of the operating system between the two are not ours to limit.
    assert!(sent.get() < 1000, "{} chunks were taken", sent.get());
}

#[test]
fn a_fetched_picture_may_have_exactly_max_bytes() {
    let (mut fetching, picture) = (Fetching::new(), png(1));
    let bytes = picture.len();
    let server = fetching.serve(Router::new().route("/1.png", get(move || async move { picture })));
    let uri = format!("http://{server}/1.png");
    fetching.configure(json!({"allow": [format!("http://{server}")], "max_bytes": bytes}));
    embedding(&fetching.fetch(&uri));
    fetching.configure(json!({"allow": [format!("http://{server}")], "max_bytes": bytes - 1}));
    assert_eq!(fetching.refuse(&uri).0, "image-too-large");
}

/// A server that answers every connection with the same raw bytes and then hangs up, or does not.
fn raw_server(
    fetching: &Fetching,
    path: &'static str,
    answer: Vec<u8>,
    hang_up: bool,
) -> std::net::SocketAddr {
    let listener = fetching.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    fetching.runtime.spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let read = connection.read(&mut request).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&request[..read]).starts_with(&format!("GET {path} "));
                let answer =
                    if asked { &answer[..] } else { b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n" };
                let _ = connection.write_all(answer).await;
                if !hang_up {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

fn answer(content_length: usize, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {content_length}\r\n\r\n").into_bytes();
    answer.extend(body);
    answer
}

#[test]
fn a_picture_with_a_wrong_content_length_is_rejected() {
    let (mut fetching, picture) = (Fetching::new(), png(1));
    let less = raw_server(&fetching, "/1.png", answer(picture.len() / 2, &picture), true);
    let more = raw_server(&fetching, "/1.png", answer(picture.len() * 2, &picture), true);
    fetching.configure(json!({"allow": [format!("http://{less}"), format!("http://{more}")]}));
    assert_eq!(fetching.refuse(&format!("http://{less}/1.png")).0, "truncated-image");
    let (code, reason) = fetching.refuse(&format!("http://{more}/1.png"));
    assert_eq!(code, "picture-unavailable", "every try ended early: {reason}");
}

#[test]
fn a_body_that_does_not_end_is_abandoned_after_the_timeout() {
    let (mut fetching, picture) = (Fetching::new(), png(1));
    let server = raw_server(&fetching, "/slow.png", answer(picture.len(), &picture[..100]), false);
    fetching.configure(json!({"allow": [format!("http://{server}")], "timeout_ms": 300}));
    let (code, reason) = fetching.refuse(&format!("http://{server}/slow.png"));
    assert_eq!(code, "picture-unavailable");
    assert!(reason.contains("timeout_ms"), "{reason}");
}

#[test]
fn no_more_pictures_are_fetched_at_once_than_configured() {
    let (mut fetching, under_way, most) =
        (Fetching::new(), Arc::new(parking_lot::Mutex::new(0_usize)), Count::default());
    // Two requests must arrive before either is answered: with fewer the test would hang, more
    // would be counted.
    let (both, highest) = (Arc::new(Barrier::new(2)), most.clone());
    let app = Router::new().route(
        "/{name}",
        get(move |Path(_): Path<String>| async move {
            let now = {
                let mut under_way = under_way.lock();
                *under_way += 1;
                *under_way
            };
            if now > 2 {
                highest.one();
            }
            both.wait().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            *under_way.lock() -= 1;
            png(1)
        }),
    );
    let server = fetching.serve(app);
    fetching.configure(json!({"allow": [format!("http://{server}")], "concurrency": 2}));
    let batch: Vec<_> = (0..8).map(|at| claim(at, &format!("http://{server}/{at}.png"))).collect();
    for outcome in fetching.process(&batch).unwrap() {
        embedding(&outcome);
    }
    assert_eq!(most.get(), 0, "more than two at once");
}

#[test]
fn invalid_claim_check_settings_are_named_in_the_error() {
    let fetching = Fetching::new();
    let error = |settings| fetching.encoder_of(settings).unwrap_err().to_string();
    for (key, value) in [("concurrency", 0), ("attempts", 0), ("timeout_ms", 0), ("max_bytes", 0)] {
        let said = error(json!({key: value}));
        assert!(said.contains(key), "{said}");
    }
    assert!(error(json!({"allow": ["pictures/"]})).contains("pictures/"));
    let s3 = |s3| error(json!({"allow": ["s3://bucket"], "s3": s3}));
    assert!(s3(json!({"endpoint": "http://127.0.0.1:9000"})).contains("allow_http"));
    assert!(s3(json!({"access_key_id": "me"})).contains("secret_access_key"));
    assert!(!s3(json!({"endpoint": "https://me:hunter2@host"})).contains("hunter2"));
}
