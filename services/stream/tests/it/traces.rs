//! One trace follows a record through its stages: spans at a collector, contexts in headers.

use unprompt_schemas::cloudevents::Headers;
use unprompt_schemas::topics::Topic;
use unprompt_stream::config::{OtlpProtocol, Secret, Telemetry};
use unprompt_stream::{
    InputRecord, KafkaConfig, Outcome, OutputRecord, Publisher, Rejection, RunSummary, RunnerConfig, Traces,
    telemetry,
};
use unprompt_test_otlp::{Collector, KEPT_HEADER, Span, SpanKind};

use crate::support::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn to(collector: &Collector) -> Telemetry {
    Telemetry { otlp_endpoint: Some(collector.grpc_url()), ..Telemetry::default() }
}

fn traces(telemetry: &Telemetry) -> Traces {
    Traces::start(telemetry, NAME).unwrap()
}

fn copying(kafka: &KafkaConfig, telemetry: &Telemetry) -> RunningStage {
    RunningStage::traced(kafka, RunnerConfig::default(), traces(telemetry), |batch| Ok(copies(batch)))
}

fn bearing(number: usize, contexts: &[(&str, &str)]) -> OutputRecord {
    let mut record = numbered(number);
    let contexts = contexts.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
    record.headers.extend(contexts);
    record
}

async fn publish_all(kafka: &KafkaConfig, records: Vec<OutputRecord>) {
    Publisher::new(kafka).unwrap().publish_many(records).await.unwrap();
}

fn texts(headers: &Headers, wanted: &str) -> Vec<String> {
    let found = headers.iter().filter(|(name, _)| name == wanted);
    found.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).collect()
}

fn traceparent(record: &InputRecord) -> String {
    let all = texts(&record.headers, "traceparent");
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

fn process_spans(collector: &Collector, kafka: &KafkaConfig) -> Vec<Span> {
    collector.named(&format!("{} process", kafka.prefix.name(Topic::Images)))
}

async fn a_record_is_processed_under_its_context_and_its_outputs_carry_its_span(fixture: Fixture) {
    let (kafka, collector) = (fixture.kafka(), Collector::start().await);
    let context = [("traceparent", SAMPLED), ("tracestate", "vendor=1")];
    publish_all(&kafka, vec![bearing(7, &context)]).await;
    let run = copying(&kafka, &to(&collector));
    let output = take(&kafka, Topic::ImageEmbeddings, 1).await.remove(0);
    run.stop().await;

    let spans = process_spans(&collector, &kafka);
    assert_eq!(spans.len(), 1, "{spans:?}");
    let span = &spans[0];
    assert_eq!((span.trace_id.as_str(), span.parent_span_id.as_str()), (TRACE, PARENT));
    assert_eq!(span.data.kind(), SpanKind::Consumer);
    assert!(!span.is_error(), "{span:?}");
    assert_eq!(span.service, format!("unprompt-{NAME}"));
    let topic = kafka.prefix.name(Topic::Images);
    let group = kafka.group(NAME);
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", topic.as_str()),
        ("messaging.consumer.group.name", group.as_str()),
        ("messaging.kafka.offset", "0"),
        ("messaging.kafka.message.key", "key-7"),
        ("unprompt.batch.records", "1"),
    ] {
        assert_eq!(span.attribute(name).as_deref(), Some(value), "{name}");
    }
    assert!(span.data.end_time_unix_nano >= span.data.start_time_unix_nano);
    assert_eq!(traceparent(&output), span.traceparent(), "the next stage's span is its child");
    assert_eq!(texts(&output.headers, "tracestate"), ["vendor=1"]);
}

async fn a_rejected_record_has_a_failed_span_and_its_dead_letter_carries_it(fixture: Fixture) {
    let (kafka, collector) = (fixture.kafka(), Collector::start().await);
    publish_all(&kafka, vec![bearing(1, &[("traceparent", SAMPLED)]), numbered(2)]).await;
    let reject = |batch: &[InputRecord]| {
        let one = |_: &InputRecord| Outcome::Rejected(Rejection::new("never", "send another"));
        Ok(batch.iter().map(one).collect())
    };
    let run = RunningStage::traced(&kafka, RunnerConfig::default(), traces(&to(&collector)), reject);
    let letters = take(&kafka, Topic::DeadLetters, 2).await;
    run.stop().await;
    let spans = process_spans(&collector, &kafka);
    assert_eq!(spans.len(), 2);
    for letter in &letters {
        let span = spans.iter().find(|span| span.traceparent() == traceparent(letter)).expect("its span");
        assert!(span.is_error());
        assert_eq!(span.attribute("error.type").as_deref(), Some("never"));
        let is_traced = number(letter) == 1;
        assert_eq!(span.trace_id == TRACE, is_traced, "only the record with a context continues its trace");
    }
}

on_both! {
    a_record_is_processed_under_its_context_and_its_outputs_carry_its_span,
    a_rejected_record_has_a_failed_span_and_its_dead_letter_carries_it,
}

/// Passes one record through a pass-through stage; returns its output and the run's summary.
async fn pass(telemetry: &Telemetry, record: OutputRecord) -> (InputRecord, RunSummary) {
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    publish_all(&kafka, vec![record]).await;
    let run = copying(&kafka, telemetry);
    let output = take(&kafka, Topic::ImageEmbeddings, 1).await.remove(0);
    (output, run.stop().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_context_is_ignored_and_a_new_trace_starts() {
    let malformed: [&[(&str, &str)]; 3] = [
        &[("traceparent", "00-zz-b7ad6b7169203331-01")],
        &[("traceparent", SAMPLED), ("traceparent", SAMPLED)],
        &[("tracestate", "vendor=1")],
    ];
    for contexts in malformed {
        let collector = Collector::start().await;
        let (output, summary) = pass(&to(&collector), bearing(1, contexts)).await;
        assert_eq!((summary.records_out, summary.dead_letters), (1, 0));
        let spans = collector.spans();
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].parent_span_id, "");
        assert_ne!(spans[0].trace_id, TRACE);
        assert_eq!(traceparent(&output), spans[0].traceparent());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsampled_trace_is_passed_on_unchanged_without_a_span() {
    let collector = Collector::start().await;
    let contexts = [("traceparent", UNSAMPLED), ("tracestate", "vendor=1")];
    let (output, _) = pass(&to(&collector), bearing(1, &contexts)).await;
    assert_eq!(traceparent(&output), UNSAMPLED);
    assert_eq!(texts(&output.headers, "tracestate"), ["vendor=1"]);
    assert_eq!(collector.spans().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_ratio_applies_only_to_traces_that_start_here() {
    let collector = Collector::start().await;
    let none = Telemetry { sample_ratio: Some(0.0), ..to(&collector) };
    let (output, _) = pass(&none, numbered(1)).await;
    assert_eq!(collector.spans().len(), 0);
    let context = traceparent(&output);
    assert!(context.ends_with("-00"), "later stages see the decision: {context}");
    let (output, _) = pass(&none, bearing(1, &[("traceparent", SAMPLED)])).await;
    assert_eq!(collector.spans().len(), 1);
    assert_eq!(traceparent(&output), collector.spans()[0].traceparent());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_contexts_are_passed_on() {
    let (output, _) = pass(&Telemetry::default(), bearing(1, &[("traceparent", SAMPLED)])).await;
    assert_eq!(traceparent(&output), SAMPLED);
    let (output, _) = pass(&Telemetry::default(), numbered(1)).await;
    assert_eq!(texts(&output.headers, "traceparent"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_record_starts_the_trace_of_its_processing() {
    let (fixture, collector) = (Fixture::start().await, Collector::start().await);
    let kafka = fixture.kafka();
    let telemetry = Telemetry {
        otlp_endpoint: Some(collector.http_url()),
        protocol: Some(OtlpProtocol::HttpProtobuf),
        headers: [(KEPT_HEADER.to_owned(), Secret::new("open sesame"))].into(),
        ..Telemetry::default()
    };
    let publishing = Traces::start(&telemetry, "importer").unwrap();
    let publisher = Publisher::new(&kafka).unwrap().traced(publishing.clone());
    let position = publisher.publish(numbered(3)).await.unwrap();
    publishing.finish().await;
    let run = copying(&kafka, &telemetry);
    take(&kafka, Topic::ImageEmbeddings, 1).await;
    run.stop().await;

    let published = collector.named("images.v1 publish").remove(0);
    let processed = collector.named("images.v1 process").remove(0);
    assert_eq!((published.data.kind(), published.parent_span_id.as_str()), (SpanKind::Producer, ""));
    assert_eq!(published.service, "unprompt-importer");
    assert_eq!(published.attribute("messaging.kafka.offset"), Some(position.offset.to_string()));
    assert_eq!(processed.trace_id, published.trace_id);
    assert_eq!(processed.parent_span_id, published.span_id);
    assert!(collector.headers().iter().all(|header| header.as_deref() == Some("open sesame")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_collector_stops_nothing_and_its_dropped_spans_are_counted() {
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    let metrics = telemetry::metrics().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = Telemetry { otlp_endpoint: Some(format!("http://{nobody}")), ..Telemetry::default() };
    publish(&kafka, 0..100).await;
    let traces = Traces::start(&away, "away").unwrap();
    let run = RunningStage::traced(&kafka, RunnerConfig::default(), traces, |batch| Ok(copies(batch)));
    assert_exactly_once(&take(&kafka, Topic::ImageEmbeddings, 100).await, 0..100);
    assert_eq!(run.stop().await.records_in, 100);
    let text = metrics.render();
    let of_away = text.lines().filter(|line| line.contains("service=\"away\""));
    let dropped = of_away.filter(|line| line.starts_with("unprompt_spans_dropped_total"));
    let dropped: f64 = dropped.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
    assert_eq!(dropped, 100.0, "{text}");
}
