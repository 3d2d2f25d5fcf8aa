//! Pictures on a web server, and servers and URIs that lead elsewhere.

use std::net::SocketAddr;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use serde_json::json;
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::ImageEvent;
use unprompt_stream::Stage;

use crate::support::{Count, Fetching, claim, embedding, encoder, png, record, rejection};

/// A server with one picture, `/pictures/1.png`, that counts the requests for it.
fn one_picture(asked: &Count) -> Router {
    let asked = asked.clone();
    let picture = move || async move {
        asked.one();
        png(7)
    };
    Router::new().route("/pictures/1.png", get(picture))
}

/// An encoder that may fetch `/pictures/` of a server with one picture.
fn with_one_picture() -> (Fetching, SocketAddr, Count) {
    let (mut fetching, asked) = (Fetching::new(), Count::default());
    let server = fetching.serve(one_picture(&asked));
    fetching.configure(json!({"allow": [format!("http://{server}/pictures/")]}));
    (fetching, server, asked)
}

#[test]
fn a_picture_behind_a_uri_becomes_the_same_embedding_as_the_picture_itself() {
    let (mut fetching, server, _) = with_one_picture();
    let inline = encoder().process(&[record(3, Some(png(7)), ImageEvent::default())]).unwrap();
    let uri = format!("http://{server}/pictures/1.png");
    let fetched = fetching.process(&[claim(3, &uri)]).unwrap();
    assert_eq!(embedding(&fetched[0]), embedding(&inline[0]), "identity and vector are those of the picture");

    let id = Uuid::from_u128(9);
    let event = ImageEvent {
        id: Some(id.to_string()),
        content_type: Some("text/uri-list; charset=utf-8".into()),
        ..ImageEvent::default()
    };
    let list = format!("# Tuesday's\r\n{uri}\r\n").into_bytes();
    let fetched = fetching.process(&[record(4, Some(list), event)]).unwrap();
    assert_eq!(embedding(&fetched[0]).image_id, id);
}

#[test]
fn pictures_and_uris_in_one_batch_keep_their_order() {
    let (mut fetching, server, _) = with_one_picture();
    let uri = format!("http://{server}/pictures/1.png");
    let inline = |offset, shade| record(offset, Some(png(shade)), ImageEvent::default());
    let batch = [
        inline(0, 200),
        claim(1, &uri),
        claim(2, "no uri"),
        claim(3, &format!("{uri}\r\n{uri}")),
        inline(4, 7),
        claim(5, &uri),
    ];
    let outcomes = fetching.process(&batch).unwrap();
    assert_eq!(rejection(&outcomes[2]).code, "bad-uri");
    assert_eq!(rejection(&outcomes[3]).code, "uri-list");
    let vector = |at: usize| embedding(&outcomes[at]).vectors[0].values.clone();
    let same = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>() > 0.9999;
    assert!(same(&vector(1), &vector(4)) && same(&vector(5), &vector(4)), "the URI's picture is the shade 7");
    assert!(!same(&vector(0), &vector(4)));
    assert_eq!(embedding(&outcomes[5]).source_offset, 5);
}

#[test]
fn uris_that_are_not_allowed_are_never_requested() {
    let (mut fetching, server, asked) = with_one_picture();
    for uri in [
        format!("http://{server}/secret/1.png"),
        format!("http://{server}/pictures/../secret/1.png"),
        format!("http://{server}/pictures"),
        "http://a.example/pictures/1.png".to_owned(),
        format!("file:///{server}/pictures/1.png"),
        format!("s3://pictures/{server}"),
    ] {
        assert_eq!(fetching.refuse(&uri).0, "uri-not-allowed", "{uri}");
    }
    for uri in [
        format!("http://user:hunter2@{server}/pictures/1.png"),
        format!("http://{server}/pictures/..%2fsecret"),
        format!("http://{server}\\pictures/1.png"),
    ] {
        let (code, reason) = fetching.refuse(&uri);
        assert_eq!(code, "bad-uri", "{uri}");
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    assert_eq!(asked.get(), 0);
}

#[test]
fn private_addresses_are_refused_by_literal_by_name_and_behind_a_redirect() {
    let (mut fetching, asked) = (Fetching::new(), Count::default());
    let metadata = get(|| async { Redirect::temporary("http://169.254.169.254/latest/meta-data/") });
    let port = fetching.serve(one_picture(&asked).route("/metadata", metadata)).port();
    let hosts = [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
    ];
    let mut allow: Vec<_> = hosts.iter().map(|host| format!("http://{host}:{port}/")).collect();
    allow.push("http://169.254.169.254".into());
    fetching.configure(json!({"allow": allow, "allow_private_addresses": false}));
    for host in hosts {
        let (code, reason) = fetching.refuse(&format!("http://{host}:{port}/pictures/1.png"));
        assert_eq!(code, "private-address", "{host}: {reason}");
    }
    assert_eq!(asked.get(), 0);
    fetching.configure(json!({"allow": allow, "allow_private_addresses": true}));
    embedding(&fetching.fetch(&format!("http://localhost:{port}/pictures/1.png")));
    for uri in
        ["http://169.254.169.254/latest/meta-data/".to_owned(), format!("http://127.0.0.1:{port}/metadata")]
    {
        assert_eq!(fetching.refuse(&uri).0, "private-address", "metadata is never fetched: {uri}");
    }
}

#[test]
fn redirects_are_followed_only_to_allowed_uris() {
    let (mut fetching, asked) = (Fetching::new(), Count::default());
    let elsewhere = fetching.serve(one_picture(&asked));
    let to = |uri: String| get(move || async move { Redirect::temporary(&uri) });
    let back = |hops: usize| get(move || async move { Redirect::permanent(&format!("hop{}", hops - 1)) });
    let app = one_picture(&Count::default())
        .route("/pictures/relative", to("1.png".into()))
        .route("/pictures/elsewhere", to(format!("http://{elsewhere}/pictures/1.png")))
        .route("/pictures/up", to("/secret".into()))
        .route("/pictures/file", to("file:///etc/passwd".into()))
        .route("/pictures/login", to(format!("http://user:hunter2@{elsewhere}/pictures/1.png")))
        .route("/pictures/hop6", back(6))
        .route("/pictures/hop5", back(5))
        .route("/pictures/hop4", back(4))
        .route("/pictures/hop3", back(3))
        .route("/pictures/hop2", back(2))
        .route("/pictures/hop1", to("1.png".into()))
        .route("/pictures/nowhere", get(|| async { StatusCode::FOUND }));
    let server = fetching.serve(app);
    fetching.configure(json!({"allow": [format!("http://{server}/pictures/")]}));
    let uri = |name: &str| format!("http://{server}/pictures/{name}");

    embedding(&fetching.fetch(&uri("relative")));
    embedding(&fetching.fetch(&uri("hop5")));
    for name in ["elsewhere", "up", "file", "login", "hop6"] {
        let (code, reason) = fetching.refuse(&uri(name));
        assert_eq!(code, "redirect-refused", "{name}: {reason}");
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    assert_eq!(fetching.refuse(&uri("nowhere")).0, "unexpected-answer");
    assert_eq!(asked.get(), 0, "the other server was asked");
}

#[test]
fn missing_pictures_and_files_that_are_not_images_have_different_codes() {
    let mut fetching = Fetching::new();
    let app = Router::new()
        .route("/gone", get(|| async { StatusCode::GONE }))
        .route("/forbidden", get(|| async { StatusCode::FORBIDDEN }))
        .route("/login", get(|| async { StatusCode::UNAUTHORIZED }))
        .route("/teapot", get(|| async { StatusCode::IM_A_TEAPOT }))
        .route("/text", get(|| async { "no picture" }))
        .route("/empty", get(|| async { "" }));
    let server = fetching.serve(app);
    fetching.configure(json!({"allow": [format!("http://{server}")]}));
    for (name, wanted) in [
        ("missing?X-Amz-Signature=hunter2", "picture-not-found"),
        ("gone", "picture-not-found"),
        ("forbidden", "picture-not-found"),
        ("login", "picture-not-found"),
        ("teapot", "unexpected-answer"),
        ("text", "not-an-image"),
        ("empty", "empty-image"),
    ] {
        let (code, reason) = fetching.refuse(&format!("http://{server}/{name}"));
        assert_eq!(code, wanted, "{name}: {reason}");
        assert!(reason.contains(&format!("http://{server}/")), "it names the picture: {reason}");
        assert!(!reason.contains("hunter2"), "a presigned URL's signature is shown: {reason}");
    }
}

/// A thousand zeros, compressed with gzip.
const GZIP: [u8; 29] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x63, 0x60, 0x18, 0x05, 0xa3, 0x60, 0x14,
    0x0c, 0x77, 0x00, 0x00, 0x80, 0x17, 0x0b, 0x06, 0xe8, 0x03, 0x00, 0x00,
];

#[test]
fn compressed_responses_are_not_decompressed() {
    let mut fetching = Fetching::new();
    let answer = |headers: axum::http::HeaderMap| async move {
        assert_eq!(headers[header::ACCEPT_ENCODING], "identity");
        ([(header::CONTENT_ENCODING, "gzip")], GZIP).into_response()
    };
    let server = fetching.serve(Router::new().route("/bomb.png", get(answer)));
    fetching.configure(json!({"allow": [format!("http://{server}")]}));
    let (code, reason) = fetching.refuse(&format!("http://{server}/bomb.png"));
    assert_eq!(code, "not-an-image");
    assert!(reason.contains("\\x1f\\x8b"), "the bytes were inflated: {reason}");
}
