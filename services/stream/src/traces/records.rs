//! The spans of the records of a batch: one each, from the hand-over to the stage to the last acknowledgement.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use unprompt_schemas::cloudevents::{Headers, names};

use super::{Traces, context};
use crate::{InputRecord, OutputRecord, Rejection};

/// The records' spans, by their place in the batch; none at all where nothing is traced.
///
/// The attributes are those of OpenTelemetry's semantic conventions for messaging and Kafka.
#[derive(Debug, Default)]
pub(crate) struct RecordSpans(Vec<Option<Span>>);

impl RecordSpans {
    /// Begins a span for each record: a child of its context, or the first of a trace where it has none. A record whose
    /// trace is not sampled has none.
    pub fn begin(traces: &Traces, group: &str, records: &[InputRecord]) -> Self {
        let Some(tracer) = traces.tracer() else { return Self::default() };
        let now = SystemTime::now();
        Self(records.iter().map(|record| begin(tracer, group, record, records.len(), now)).collect())
    }

    /// The stage has given its outcomes; what is left is to write them.
    pub fn processed(&mut self) {
        let now = SystemTime::now();
        for span in self.0.iter_mut().flatten() {
            span.add_event_with_timestamp("processed", now, Vec::new());
        }
    }

    /// The record became a dead letter.
    pub fn rejected(&mut self, record: usize, rejection: &Rejection) {
        self.failed(record, rejection.code, rejection.reason.clone());
    }

    /// The record's partition is another member's now, and so is the record.
    pub fn left(&mut self, record: usize) {
        self.failed(
            record,
            "partition-lost",
            "its partition went to another member, which does it again".into(),
        );
    }

    /// Has each record bear the context of the span of its input.
    pub fn stamp(&self, records: &mut [(usize, OutputRecord)]) {
        for (input, record) in records {
            if let Some(Some(span)) = self.0.get(*input) {
                context::write(span.span_context(), &mut record.headers);
            }
        }
    }

    /// All that followed from the records is acknowledged.
    pub fn delivered(&mut self) {
        let now = SystemTime::now();
        self.0.drain(..).flatten().for_each(|mut span| span.end_with_timestamp(now));
    }

    fn failed(&mut self, record: usize, code: &'static str, reason: String) {
        if let Some(Some(span)) = self.0.get_mut(record) {
            span.set_attribute(KeyValue::new("error.type", code));
            span.set_status(Status::error(reason));
        }
    }
}

impl Drop for RecordSpans {
    /// What was never delivered is done again, under a span of its own.
    fn drop(&mut self) {
        for record in 0..self.0.len() {
            self.failed(
                record,
                "not-delivered",
                "given up before all was acknowledged; it is done again".into(),
            );
        }
        self.delivered();
    }
}

fn begin(
    tracer: &SdkTracer,
    group: &str,
    record: &InputRecord,
    batch_records: usize,
    now: SystemTime,
) -> Option<Span> {
    let parent = context::read(&record.headers);
    if parent.as_ref().is_some_and(|parent| !parent.is_sampled()) {
        return None;
    }
    let builder = tracer
        .span_builder(format!("{} process", record.topic_name))
        .with_kind(SpanKind::Consumer)
        .with_start_time(now)
        .with_attributes(attributes(group, record, batch_records));
    Some(builder.start_with_context(tracer, &context::under(parent)))
}

fn attributes(group: &str, record: &InputRecord, batch_records: usize) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.name", record.topic_name.clone()),
        KeyValue::new("messaging.destination.partition.id", record.partition.to_string()),
        KeyValue::new("messaging.kafka.offset", record.offset),
        KeyValue::new("messaging.consumer.group.name", group.to_owned()),
        // Of the batch that the stage had it in: what it took is to be judged by that.
        KeyValue::new("unprompt.batch.records", batch_records as i64),
    ];
    match &record.value {
        Some(value) => attributes.push(KeyValue::new("messaging.message.body.size", value.len() as i64)),
        None => attributes.push(KeyValue::new("messaging.kafka.message.tombstone", true)),
    }
    attributes.extend(named(record.key.as_deref(), &record.headers));
    attributes
}

/// What the record is called, where it is text: its key and its CloudEvents id.
pub(super) fn named<'a>(key: Option<&'a [u8]>, headers: &'a Headers) -> impl Iterator<Item = KeyValue> {
    let id = headers.iter().find(|(name, _)| name == names::ID).map(|(_, value)| value.as_slice());
    let names = [("messaging.kafka.message.key", key), ("cloudevents.event_id", id)];
    names.into_iter().filter_map(|(name, bytes)| {
        let text = str::from_utf8(bytes?).ok()?;
        Some(KeyValue::new(name, text.to_owned()))
    })
}
