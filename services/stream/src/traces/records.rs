//! The spans of a batch's records: one each, from the hand-over to the stage to the
//! last acknowledgement.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use unprompt_schemas::cloudevents::{Headers, names};

use super::{Traces, context};
use crate::{InputRecord, OutputRecord, Rejection};

/// The records' spans, by index in the batch; empty if nothing is traced.
///
/// The attributes are those of OpenTelemetry's semantic conventions for messaging and Kafka.
#[derive(Debug, Default)]
pub(crate) struct RecordSpans(Vec<Option<Span>>);

impl RecordSpans {
    /// Begins a span for each record: a child of the record's context, or the first of a trace if
    /// it has none. A record whose trace is not sampled gets no span.
    pub fn begin(traces: &Traces, group: &str, records: &[InputRecord]) -> Self {
        let Some(tracer) = traces.tracer() else { return Self::default() };
        let now = SystemTime::now();
        Self(records.iter().map(|record| begin(tracer, group, record, records.len(), now)).collect())
    }

    /// Takes the spans of the first records.
    pub fn split_first(&mut self, count: usize) -> Self {
        let rest = self.0.split_off(count.min(self.0.len()));
        Self(std::mem::replace(&mut self.0, rest))
    }

    /// Notes that the stage has returned its outcomes; they remain to be written.
    pub fn processed(&mut self) {
        let now = SystemTime::now();
        for span in self.0.iter_mut().flatten() {
            span.add_event_with_timestamp("processed", now, Vec::new());
        }
    }

    /// Notes that the record became a dead letter.
    pub fn rejected(&mut self, record: usize, rejection: &Rejection) {
        self.failed(record, rejection.code, rejection.reason.clone());
    }

    /// Notes that the record and its partition now belong to another member.
    pub fn left(&mut self, record: usize) {
        self.failed(
            record,
            "partition-lost",
            "its partition went to another member, which does it again".into(),
        );
    }

    /// Writes the context of each input's span into its output records.
    pub fn stamp(&self, records: &mut [(usize, OutputRecord)]) {
        for (input, record) in records {
            if let Some(Some(span)) = self.0.get(*input) {
                context::write(span.span_context(), &mut record.headers);
            }
        }
    }

    /// Ends the spans: everything that followed from the records is acknowledged.
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
    /// Ends the spans of records that were never delivered. These are processed
    /// again, under new spans.
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
        // The size of the record's batch, by which the time it took must be judged.
        KeyValue::new("unprompt.batch.records", batch_records as i64),
    ];
    match &record.value {
        Some(value) => attributes.push(KeyValue::new("messaging.message.body.size", value.len() as i64)),
        None => attributes.push(KeyValue::new("messaging.kafka.message.tombstone", true)),
    }
    attributes.extend(named(record.key.as_deref(), &record.headers));
    attributes
}

/// Returns the record's names that are text: its key and its CloudEvents id.
pub(super) fn named<'a>(key: Option<&'a [u8]>, headers: &'a Headers) -> impl Iterator<Item = KeyValue> {
    let id = headers.iter().find(|(name, _)| name == names::ID).map(|(_, value)| value.as_slice());
    let names = [("messaging.kafka.message.key", key), ("cloudevents.event_id", id)];
    names.into_iter().filter_map(|(name, bytes)| {
        let text = str::from_utf8(bytes?).ok()?;
        Some(KeyValue::new(name, text.to_owned()))
    })
}
