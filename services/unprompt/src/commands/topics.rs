//! `unprompt topics`: lists the topics, and prints their records as they arrive.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{Head, ImageEmbedding, Prediction, Prompt, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Start, Tail, TopicState, list_topics};

use crate::cli::{Tail as TailArgs, Topics};
use crate::context::Context;
use crate::output;

pub async fn run(context: &Context, command: Topics, stop: CancellationToken) -> anyhow::Result<()> {
    match command {
        Topics::List => list(context).await,
        Topics::Tail(args) => tail(context, args, stop).await,
    }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let kafka = context.kafka();
    let states = list_topics(&kafka).await?;
    if context.json {
        return output::json(&states.iter().map(as_json).collect::<Vec<_>>());
    }
    let mut table = output::table(["topic", "offsets", "partitions", "record limit", "retention"]);
    for state in states {
        let spec = state.topic.spec();
        let (offsets, partitions) = match state.partitions {
            Some(partitions) => (state.offsets.to_string(), partitions.to_string()),
            None => ("not created".to_owned(), String::new()),
        };
        let limit = format!("{:.1} MiB", f64::from(spec.max_message_bytes) / f64::from(1 << 20));
        table.add_row([state.name, offsets, partitions, limit, retention(state.topic)]);
    }
    output::line(table)
}

fn as_json(state: &TopicState) -> Value {
    let spec = state.topic.spec();
    json!({
        "topic": state.name, "offsets": state.offsets, "partitions": state.partitions,
        "max_message_bytes": spec.max_message_bytes, "retention_ms": spec.retention_ms, "compacted": spec.compacted,
    })
}

fn retention(topic: Topic) -> String {
    let spec = topic.spec();
    match (spec.compacted, spec.retention_ms) {
        (true, _) => "compacted".into(),
        (false, ms) if ms < 0 => "forever".into(),
        (false, ms) => format!("{} days", ms / 86_400_000),
    }
}

async fn tail(context: &Context, args: TailArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let kafka = context.kafka();
    let topic = kafka
        .prefix
        .parse(&args.topic)
        .or_else(|| Topic::ALL.into_iter().find(|topic| topic.base_name() == args.topic));
    let topic = topic.ok_or_else(|| {
        let names = Topic::ALL.map(Topic::base_name).join(", ");
        anyhow::anyhow!("there is no topic {:?}; choose one of {names}", args.topic)
    })?;
    let codec = context.codec()?;
    let start = if args.from_beginning { Start::Beginning } else { Start::End };
    let mut tail = Tail::new(&kafka, &[topic], start).await?;
    for _ in 0..args.limit.unwrap_or(usize::MAX) {
        let record = tokio::select! {
            record = tail.next() => record?,
            () = stop.cancelled() => break,
        };
        output::json(&shown(&codec, &record))?;
    }
    Ok(())
}

/// Converts a record to JSON: position, headers as text, and the value, decoded if it is one of our
/// records.
fn shown(codec: &Codec, record: &InputRecord) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: serde_json::Map<String, Value> =
        record.headers.iter().map(|(name, value)| (name.clone(), json!(text(value)))).collect();
    json!({
        "topic": record.topic_name, "partition": record.partition, "offset": record.offset,
        "timestamp_ms": record.timestamp_ms, "key": record.key.as_deref().map(text), "headers": headers,
        "value": record.value.as_deref().map(|value| shown_value(codec, record.topic, value)),
    })
}

fn shown_value(codec: &Codec, topic: Topic, value: &[u8]) -> Value {
    let decoded = match topic {
        Topic::Prompts => Prompt::from_record(value, codec).map(|v| json!(v)),
        Topic::ImageEmbeddings => codec.decode::<ImageEmbedding>(value).map(|v| output::record(&v)),
        Topic::PromptEmbeddings => codec.decode::<PromptEmbedding>(value).map(|v| json!(v)),
        Topic::Heads => codec.decode::<Head>(value).map(|v| json!(v)),
        Topic::Predictions => codec.decode::<Prediction>(value).map(|v| output::record(&v)),
        Topic::Images | Topic::DeadLetters => return json!({"bytes": value.len()}),
    };
    decoded.unwrap_or_else(|error| json!({"bytes": value.len(), "error": error.to_string()}))
}
