//! Temporary failures: an unavailable place makes its batch wait; a picture that alone fails is
//! given up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpSocket;
use unprompt_stream::BatchError;

use crate::support::{Count, Fetching, claim, embedding, png, rejection};

/// A flag that a server reads.
#[derive(Clone, Debug, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn on(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Serves pictures at `/pictures/<name>`. `broken.png` always fails; with `down` on, all of them
/// fail. Anything else is not found, down or not, as with a web server in front of a store.
fn store(down: &Switch, asked: &Count) -> Router {
    let (down, asked) = (down.clone(), asked.clone());
    let picture = move |Path(name): Path<String>| async move {
        asked.one();
        match down.is_on() || name == "broken.png" {
            true => StatusCode::BAD_GATEWAY.into_response(),
            false => png(1).into_response(),
        }
    };
    Router::new().route("/pictures/{name}", get(picture))
}

/// A port on which nothing listens while the socket is held.
fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn a_picture_is_fetched_after_transient_server_errors() {
    let (mut fetching, asked) = (Fetching::new(), Count::default());
    let flaky = {
        let asked = asked.clone();
        move || async move {
            match asked.one() {
                0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                1 => StatusCode::TOO_MANY_REQUESTS.into_response(),
                _ => png(1).into_response(),
            }
        }
    };
    let server = fetching.serve(Router::new().route("/1.png", get(flaky)));
    fetching.configure(json!({"allow": [format!("http://{server}")], "attempts": 3}));
    embedding(&fetching.fetch(&format!("http://{server}/1.png")));
    assert_eq!(asked.get(), 3);
}

#[test]
fn a_host_that_is_down_makes_its_batch_wait_and_drops_nothing() {
    let mut fetching = Fetching::new();
    let (_held, nobody) = nobody();
    let overloaded = fetching.serve(Router::new().fallback(|| async { StatusCode::SERVICE_UNAVAILABLE }));
    fetching.configure(json!({"allow": [
        format!("http://{nobody}"), format!("http://{overloaded}"), "http://nobody.invalid/", "file:///nowhere/pictures/",
    ]}));
    for place in [format!("http://{nobody}"), format!("http://{overloaded}"), "http://nobody.invalid".into()]
    {
        let reason = fetching.wait(&format!("{place}/1.png?X-Amz-Signature=hunter2"));
        assert!(reason.contains(&format!("{place}/1.png")), "{reason}");
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    assert!(fetching.wait("file:///nowhere/pictures/1.png").contains("/nowhere/pictures"));
}

#[test]
fn one_picture_that_always_fails_is_given_up_while_its_neighbours_are_encoded() {
    let (mut fetching, down, asked) = (Fetching::new(), Switch::default(), Count::default());
    let server = fetching.serve(store(&down, &asked));
    fetching.configure(json!({"allow": [format!("http://{server}/pictures/")]}));
    let uri = |name: &str| format!("http://{server}/pictures/{name}");
    // In a batch with others, alone after others, and alone from the start.
    let outcomes = fetching.process(&[claim(0, &uri("broken.png")), claim(1, &uri("1.png"))]).unwrap();
    let rejection = rejection(&outcomes[0]);
    assert_eq!(rejection.code, "picture-unavailable");
    assert!(rejection.reason.contains("502"), "{}", rejection.reason);
    embedding(&outcomes[1]);
    assert_eq!(fetching.refuse(&uri("broken.png")).0, "picture-unavailable");
    fetching.configure(json!({"allow": [format!("http://{server}/pictures/")]}));
    assert_eq!(
        fetching.refuse(&uri("broken.png")).0,
        "picture-unavailable",
        "its place answers, if only with 404"
    );
}

#[test]
fn a_store_that_fails_behind_a_web_server_that_answers_is_an_outage() {
    let (mut fetching, down) = (Fetching::new(), Switch::default());
    let server = fetching.serve(store(&down, &Count::default()));
    fetching.configure(json!({"allow": [format!("http://{server}/pictures/")]}));
    let uri = |name: &str| format!("http://{server}/pictures/{name}");
    embedding(&fetching.fetch(&uri("known.png")));
    down.on();
    let reason = fetching.wait(&uri("1.png"));
    assert!(reason.contains("take the place out of allow"), "it says how to give up: {reason}");
}

#[test]
fn pictures_fetched_before_an_outage_are_not_fetched_again_on_retry() {
    let (mut fetching, down, asked) = (Fetching::new(), Switch::default(), Count::default());
    let well = fetching.serve(store(&Switch::default(), &asked));
    let ill = fetching.serve({
        let down = down.clone();
        Router::new().fallback(move || async move {
            match down.is_on() {
                true => png(2).into_response(),
                false => Response::builder().status(503).body(axum::body::Body::empty()).unwrap(),
            }
        })
    });
    fetching.configure(
        json!({"allow": [format!("http://{well}/pictures/"), format!("http://{ill}")], "concurrency": 1}),
    );
    let batch = [
        claim(0, &format!("http://{well}/pictures/1.png")),
        claim(1, &format!("http://{ill}/1.png")),
        claim(2, "no uri"),
    ];
    for _ in 0..3 {
        assert!(matches!(fetching.process(&batch), Err(BatchError::Transient(_))));
    }
    down.on();
    let outcomes = fetching.process(&batch).unwrap();
    assert_eq!(embedding(&outcomes[0]).source_offset, 0);
    assert_eq!(embedding(&outcomes[1]).source_offset, 1);
    assert_eq!(rejection(&outcomes[2]).code, "bad-uri");
    assert_eq!(asked.get(), 1);
    // A later batch fetches them again.
    fetching.process(&batch).unwrap();
    assert_eq!(asked.get(), 2);
}

#[test]
fn a_redirect_into_an_outage_waits_although_its_own_host_answers() {
    let mut fetching = Fetching::new();
    let (_held, nobody) = nobody();
    let to = format!("http://{nobody}/1.png");
    let front =
        Router::new().route("/1.png", get(move || async move { axum::response::Redirect::temporary(&to) }));
    let front = fetching.serve(front);
    fetching.configure(json!({"allow": [format!("http://{front}"), format!("http://{nobody}")]}));
    let reason = fetching.wait(&format!("http://{front}/1.png"));
    assert!(reason.contains(&nobody.to_string()), "{reason}");
}

/// `/own.png` is a picture; every other name redirects to the same name in the folder `to`.
fn front(to: String) -> Router {
    let redirect = move |Path(name): Path<String>| async move {
        axum::response::Redirect::temporary(&format!("{to}{name}"))
    };
    Router::new().route("/own.png", get(|| async { png(3) })).route("/{name}", get(redirect))
}

#[test]
fn a_redirect_into_an_outage_waits_although_its_own_host_has_served_pictures() {
    let mut fetching = Fetching::new();
    let (_held, nobody) = nobody();
    let front = fetching.serve(front(format!("http://{nobody}/")));
    fetching.configure(json!({"allow": [format!("http://{front}"), format!("http://{nobody}")]}));
    embedding(&fetching.fetch(&format!("http://{front}/own.png")));
    let reason = fetching.wait(&format!("http://{front}/1.png"));
    assert!(reason.contains(&nobody.to_string()), "{reason}");
}

#[test]
fn a_store_failure_behind_a_redirect_is_an_outage_although_the_redirect_succeeds() {
    let (mut fetching, down) = (Fetching::new(), Switch::default());
    let back = fetching.serve(store(&down, &Count::default()));
    let front = fetching.serve(front(format!("http://{back}/pictures/")));
    fetching.configure(json!({"allow": [format!("http://{front}"), format!("http://{back}/pictures/")]}));
    // The last picture comes from the front itself, and says nothing about the store behind it.
    for name in ["known.png", "own.png"] {
        embedding(&fetching.fetch(&format!("http://{front}/{name}")));
    }
    down.on();
    let reason = fetching.wait(&format!("http://{front}/1.png"));
    assert!(reason.contains(&format!("http://{back}/pictures/1.png")), "{reason}");
}

#[test]
fn a_picture_whose_last_try_leads_into_an_outage_elsewhere_waits() {
    let (mut fetching, asked) = (Fetching::new(), Count::default());
    let (_held, nobody) = nobody();
    let to = format!("http://{nobody}/1.png");
    // The front fails in all three attempts; then it recovers and redirects to a port on which
    // nothing listens.
    let picture = move || async move {
        match asked.one() {
            0..3 => StatusCode::BAD_GATEWAY.into_response(),
            _ => axum::response::Redirect::temporary(&to).into_response(),
        }
    };
    let front = fetching.serve(Router::new().route("/1.png", get(picture)));
    fetching.configure(json!({"allow": [format!("http://{front}"), format!("http://{nobody}")]}));
    let reason = fetching.wait(&format!("http://{front}/1.png"));
    assert!(reason.contains(&nobody.to_string()), "{reason}");
}
