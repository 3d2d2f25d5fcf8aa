//! One trace follows a picture from its publication to its prediction.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use unprompt_schemas::topics::Topic;
use unprompt_test_otlp::{Collector, Span};

use crate::stack::{Up, answer, png, read, talk, unprompt, wait_for};

/// Runs a command with this environment variable; returns its output. It must succeed.
fn told(data_dir: &Path, environment: (&str, &str), args: &[&str]) -> String {
    let mut command = unprompt();
    command.arg("--data-dir").arg(data_dir).args(args).env(environment.0, environment.1);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn child<'a>(spans: &'a [Span], name: &str, parent: &Span) -> &'a Span {
    let found = spans.iter().find(|span| span.data.name == name && span.parent_span_id == parent.span_id);
    found.unwrap_or_else(|| panic!("no {name} under {} of {}", parent.data.name, parent.service))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_follows_a_picture_from_its_publication_to_its_prediction() {
    let (folder, collector) = (tempfile::tempdir().unwrap(), Collector::start().await);
    let (data_dir, url) = (folder.path().join("data"), collector.grpc_url());
    let ours = ("UNPROMPT__TELEMETRY__OTLP_ENDPOINT", url.as_str());
    let up = Up::start_with(&data_dir, &[ours]);
    let file = folder.path().join("p.txt");
    std::fs::write(&file, "a red star on a beach\na blue house in the snow\n").unwrap();
    answer(&data_dir, &["prompts", "import", file.to_str().unwrap()]);
    wait_for("an indexed prompt", || {
        let output = talk(&data_dir, &["--json", "query", "--text", "a red star"]);
        serde_json::from_slice::<Value>(&output.stdout).ok()?.as_array()?.first().map(|_| ())
    });
    let picture = folder.path().join("picture.png");
    std::fs::write(&picture, png(200, 30, 30)).unwrap();
    let picture = picture.to_str().unwrap();
    let predicted: Value =
        serde_json::from_str(&told(&data_dir, ours, &["--json", "predict", picture])).unwrap();
    // OpenTelemetry's own variable, whose default is HTTP.
    let http = collector.http_url();
    told(&data_dir, ("OTEL_EXPORTER_OTLP_ENDPOINT", &http), &["publish", picture, "--wait"]);
    let predictions = read(&up.kafka, Topic::Predictions).await;
    assert!(up.terminate(), "a graceful stop ends with success");

    let spans = collector.spans();
    let publications: Vec<&Span> =
        spans.iter().filter(|span| span.data.name == "images.v1 publish").collect();
    let services: HashSet<&str> = publications.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services, HashSet::from(["unprompt-predict", "unprompt-publish"]));
    for published in publications {
        assert_eq!(published.parent_span_id, "", "the trace starts with it");
        let encoded = child(&spans, "images.v1 process", published);
        let predicted = child(&spans, "image-embeddings.v1 process", encoded);
        assert_eq!(
            (encoded.service.as_str(), predicted.service.as_str()),
            ("unprompt-image-encoder", "unprompt-predictor")
        );
        let trace: HashSet<&str> = [published, encoded, predicted].map(|span| span.trace_id.as_str()).into();
        assert_eq!(trace.len(), 1, "one trace");
        let context = ("traceparent".to_owned(), predicted.traceparent().into_bytes());
        assert!(
            predictions.iter().any(|record| record.headers.contains(&context)),
            "the prediction carries the trace context"
        );
    }
    let id = predicted["image_id"].as_str().unwrap();
    let of_picture =
        spans.iter().filter(|span| span.attribute("cloudevents.event_id").as_deref() == Some(id));
    assert_eq!(of_picture.count(), 2, "publication and encoding are found by the picture's id");

    let encoded = spans.iter().filter(|span| span.service == "unprompt-text-encoder").collect::<Vec<_>>();
    assert_eq!(encoded.len(), 2, "a prompt without a context starts a trace where it is first read");
    for prompt in encoded {
        assert_eq!(child(&spans, "prompt-embeddings.v1 process", prompt).service, "unprompt-indexer");
    }
}
