//! The span of a record published from outside a stage, from the call to the acknowledgement.

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _};
use opentelemetry_sdk::trace::Span;

use super::records::named;
use super::{Traces, context};
use crate::{OutputRecord, Position, StreamError};

/// A record's span, if it is traced.
#[derive(Debug)]
pub(crate) struct PublishSpan(Option<Span>);

impl PublishSpan {
    /// Begins the span under the record's own context, or begins a trace, and writes the span's
    /// context into the record.
    pub fn begin(traces: &Traces, topic: &str, record: &mut OutputRecord) -> Self {
        let Some(tracer) = traces.tracer() else { return Self(None) };
        let parent = context::read(&record.headers);
        if parent.as_ref().is_some_and(|parent| !parent.is_sampled()) {
            return Self(None);
        }
        let builder = tracer
            .span_builder(format!("{topic} publish"))
            .with_kind(SpanKind::Producer)
            .with_attributes(attributes(topic, record));
        let span = builder.start_with_context(tracer, &context::under(parent));
        context::write(span.span_context(), &mut record.headers);
        Self(Some(span))
    }

    /// Ends the span with the result of publishing, and returns that result.
    pub fn end(self, published: Result<Position, StreamError>) -> Result<Position, StreamError> {
        let position = match published {
            Ok(position) => position,
            Err(error) => return Err(self.failed(error)),
        };
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new(
                "messaging.destination.partition.id",
                position.partition.to_string(),
            ));
            span.set_attribute(KeyValue::new("messaging.kafka.offset", position.offset));
            span.end();
        }
        Ok(position)
    }

    /// Ends the span of a record that was not published, or whose fate is unknown.
    pub fn failed(self, error: StreamError) -> StreamError {
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new("error.type", "not-published"));
            span.set_status(Status::error(error.to_string()));
            span.end();
        }
        error
    }
}

fn attributes(topic: &str, record: &OutputRecord) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.name", "publish"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.destination.name", topic.to_owned()),
    ];
    match &record.value {
        Some(value) => attributes.push(KeyValue::new("messaging.message.body.size", value.len() as i64)),
        None => attributes.push(KeyValue::new("messaging.kafka.message.tombstone", true)),
    }
    attributes.extend(named(record.key.as_deref(), &record.headers));
    attributes
}
