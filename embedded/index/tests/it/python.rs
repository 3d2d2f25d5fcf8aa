//! A test that Python's qdrant-client, an independent client, works with the endpoint.

use std::process::Command;

use unprompt_test_qdrant::TestEndpoint;
use unprompt_test_skipped::skipped;

/// Names a Python that has qdrant-client. Without it the test is skipped.
const PYTHON: &str = "UNPROMPT_TEST_PYTHON";

#[tokio::test(flavor = "multi_thread")]
async fn pythons_client_works_over_grpc() {
    let Ok(python) = std::env::var(PYTHON) else {
        return skipped(&format!("{PYTHON} names no Python with qdrant-client"));
    };
    let endpoint = TestEndpoint::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/check_with_qdrant_client.py");
    let url = endpoint.url.clone();
    let run = move || Command::new(python).args([script, &url]).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    endpoint.stop().await;
}
