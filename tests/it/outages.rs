//! A service whose index is away when it starts waits for it, and says that it is not ready.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};

use unprompt_index::embedded::EmbeddedIndex;
use unprompt_stream::embedded::EmbeddedBroker;

use crate::stack::{get, unprompt, wait_for};

/// A process that is killed when the test ends.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn status(address: SocketAddr) -> Option<String> {
    Some(get(address, "/readyz")?.lines().next()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predictor_waits_for_an_index_that_is_away_when_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start(&folder.path().join("broker"), 0).await.unwrap();
    let (index_port, http) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let child = unprompt()
        .args(["serve", "predictor", "--log", "warn", "--http-port", &http.port().to_string()])
        .args(["--qdrant", &format!("http://127.0.0.1:{index_port}"), "--data-dir"])
        .arg(folder.path().join("data"))
        .env("UNPROMPT__KAFKA__BROKERS", broker.brokers())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut serving = Serving(child);
    let stderr = std::io::BufReader::new(serving.0.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(stderr);
    let waiting = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("waiting for the index")));
    assert!(waiting.is_some(), "it ended instead of waiting");
    std::thread::spawn(move || lines.for_each(drop));
    let said = wait_for("an answer", || status(http));
    assert!(said.contains("503"), "{said}");

    let index = EmbeddedIndex::start(&folder.path().join("index"), index_port).await.unwrap();
    wait_for("readiness", || status(http).filter(|said| said.contains("200")));
    assert!(serving.0.try_wait().unwrap().is_none());
    drop(serving);
    index.stop().await.unwrap();
    broker.stop().await.unwrap();
}
