//! The trace context in a record's headers (W3C Trace Context): read from inputs,
//! written to outputs.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use unprompt_schemas::cloudevents::{Headers, names, trace_context};

/// Reads the context from the headers; `None` if it is missing or malformed, or if
/// there is more than one.
pub(super) fn read(headers: &Headers) -> Option<SpanContext> {
    let parent = trace_context(headers)?.to_owned();
    let carrier = Carrier { parent, state: trace_state(headers) };
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

/// Writes this context into the headers, in place of any other. A context that names no
/// trace changes nothing.
pub(super) fn write(span: &SpanContext, headers: &mut Headers) {
    if !span.is_valid() {
        return;
    }
    headers.retain(|(name, _)| name != names::TRACEPARENT && name != names::TRACESTATE);
    let context = Context::new().with_remote_span_context(span.clone());
    TraceContextPropagator::new().inject_context(&context, &mut HeaderWriter(headers));
}

/// Returns the context to start a span of this parent in; without a parent, the span starts a new
/// trace.
pub(super) fn under(parent: Option<SpanContext>) -> Context {
    match parent {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    }
}

/// Joins the trace state, which may be spread over several headers.
fn trace_state(headers: &Headers) -> String {
    let parts = headers.iter().filter(|(name, _)| name == names::TRACESTATE);
    let texts: Vec<&str> = parts.filter_map(|(_, value)| str::from_utf8(value).ok()).collect();
    texts.join(",")
}

struct Carrier {
    parent: String,
    state: String,
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            names::TRACEPARENT => Some(&self.parent),
            names::TRACESTATE if !self.state.is_empty() => Some(&self.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![names::TRACEPARENT, names::TRACESTATE]
    }
}

struct HeaderWriter<'a>(&'a mut Headers);

impl Injector for HeaderWriter<'_> {
    fn set(&mut self, key: &str, value: String) {
        // A state without members needs no header.
        if !value.is_empty() {
            self.0.push((key.to_owned(), value.into_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_context_is_written_as_it_was_read() {
        let given = headers(&[("traceparent", PARENT), ("tracestate", "a=1,b=2")]);
        let mut written = headers(&[("x", "1"), ("traceparent", "another"), ("tracestate", "c=3")]);
        write(&read(&given).unwrap(), &mut written);
        assert_eq!(written, [headers(&[("x", "1")]), given].concat());
    }

    #[test]
    fn a_trace_state_in_several_headers_is_joined() {
        let given = headers(&[("tracestate", "a=1"), ("traceparent", PARENT), ("tracestate", "b=2")]);
        assert_eq!(read(&given).unwrap().trace_state().header(), "a=1,b=2");
    }

    #[test]
    fn a_missing_malformed_or_duplicate_context_is_read_as_none() {
        assert_eq!(read(&Headers::new()), None);
        assert_eq!(read(&headers(&[("traceparent", "00-zz-b7ad6b7169203331-01")])), None);
        assert_eq!(read(&headers(&[("traceparent", PARENT), ("traceparent", PARENT)])), None);
    }

    #[test]
    fn a_malformed_trace_state_is_dropped_and_the_context_is_kept() {
        let given = headers(&[("traceparent", PARENT), ("tracestate", "no list")]);
        let mut written = Headers::new();
        write(&read(&given).unwrap(), &mut written);
        assert_eq!(written, headers(&[("traceparent", PARENT)]));
    }
}
