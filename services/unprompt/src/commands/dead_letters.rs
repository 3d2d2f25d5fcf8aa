//! `unprompt dead-letters`: what was rejected and why, published again once the cause is mended, and thrown away.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use unprompt_schemas::dead_letter::{DeadLetter, own_headers};
use unprompt_schemas::topics::Topic;
use unprompt_stream::progress::Progress;
use unprompt_stream::{
    InputRecord, KafkaConfig, OutputRecord, Publisher, VALUE_OMITTED_HEADER, delete_all_records, read_to_end,
};

use crate::cli::{DeadLetters, Selected};
use crate::context::Context;
use crate::output;

/// Records published again between two looks at whether to stop.
const CHUNK: usize = 64;
/// The longest reason in a table's line.
const REASON_CHARS: usize = 100;

pub async fn run(context: &Context, command: DeadLetters, stop: CancellationToken) -> anyhow::Result<()> {
    let kafka = context.kafka();
    match command {
        DeadLetters::List { selected, limit } => list(context, &kafka, &selected, limit).await,
        DeadLetters::Show { position, out } => show(&kafka, &position, out.as_deref()).await,
        DeadLetters::Replay { selected, all } => replay(context, &kafka, &selected, all, stop).await,
        DeadLetters::Purge { yes } => purge(&kafka, yes).await,
    }
}

/// A dead letter, with what its headers say.
struct Letter {
    record: InputRecord,
    bytes: Option<usize>,
    said: DeadLetter,
}

impl Letter {
    /// A record that somebody else put there says nothing of where it came from.
    fn of(record: InputRecord) -> Self {
        let said = DeadLetter::parse(&record.headers).unwrap_or_else(|error| DeadLetter {
            code: "not-one-of-ours".into(),
            error: error.to_string(),
            ..DeadLetter::default()
        });
        Self { bytes: record.value.as_ref().map(Vec::len), record, said }
    }

    fn position(&self) -> String {
        format!("{}:{}", self.record.partition, self.record.offset)
    }

    fn as_json(&self) -> Value {
        let DeadLetter { topic, partition, offset, timestamp_ms, service, code, error } = &self.said;
        json!({
            "position": self.position(), "rejected_at_ms": self.record.timestamp_ms, "service": service, "code": code,
            "error": error, "topic": topic, "partition": partition, "offset": offset, "timestamp_ms": timestamp_ms,
            "bytes": self.bytes,
        })
    }
}

/// Whether the values are wanted too: a picture may be 20 MB.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Kept,
    Left,
}

/// All that were selected, oldest first.
async fn letters(kafka: &KafkaConfig, selected: &Selected, values: Values) -> anyhow::Result<Vec<Letter>> {
    let is = |asked: &Option<String>, value: &str| asked.as_ref().is_none_or(|asked| asked == value);
    let wanted = |letter: &Letter| {
        is(&selected.service, &letter.said.service)
            && is(&selected.code, &letter.said.code)
            && (selected.positions.is_empty() || selected.positions.contains(&letter.position()))
    };
    let mut letters = Vec::new();
    let progress = Progress::new("dead letters read", None);
    let mut read = 0;
    read_to_end(kafka, &[Topic::DeadLetters], |record| {
        read += 1;
        progress.set(read);
        let mut letter = Letter::of(record);
        if wanted(&letter) {
            letter.record.value.take_if(|_| values == Values::Left);
            letters.push(letter);
        }
    })
    .await?;
    progress.finish();
    letters.sort_by_key(|letter| (letter.record.timestamp_ms, letter.record.partition, letter.record.offset));
    Ok(letters)
}

async fn list(
    context: &Context,
    kafka: &KafkaConfig,
    selected: &Selected,
    limit: Option<usize>,
) -> anyhow::Result<()> {
    let letters = letters(kafka, selected, Values::Left).await?;
    let newest = letters.len().saturating_sub(limit.unwrap_or(usize::MAX));
    if context.json {
        return output::json(&letters[newest..].iter().map(Letter::as_json).collect::<Vec<_>>());
    }
    let mut table = output::table(["position", "service", "code", "from", "bytes", "reason"]);
    for letter in &letters[newest..] {
        let said = &letter.said;
        let from = format!("{} {}:{}", said.topic, said.partition, said.offset);
        let bytes = letter.bytes.map_or("none".into(), |bytes| bytes.to_string());
        let reason: String = said.error.chars().take(REASON_CHARS).collect();
        table.add_row([letter.position(), said.service.clone(), said.code.clone(), from, bytes, reason]);
    }
    output::line(table)?;
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for letter in &letters {
        *counts.entry((&letter.said.service, &letter.said.code)).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|((service, code), count)| format!("{count} {code} ({service})")).collect();
    eprintln!(
        "{} dead letters{}{}",
        letters.len(),
        if counts.is_empty() { "" } else { ": " },
        counts.join(", ")
    );
    Ok(())
}

async fn show(kafka: &KafkaConfig, position: &str, out: Option<&std::path::Path>) -> anyhow::Result<()> {
    let selected = Selected { positions: vec![position.to_owned()], ..Selected::default() };
    let letter = letters(kafka, &selected, Values::Kept).await?.pop();
    let letter = letter.with_context(|| {
        format!("there is no dead letter at {position}; `unprompt dead-letters list` gives the positions")
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut shown = letter.as_json();
    shown["key"] = json!(letter.record.key.as_deref().map(text));
    let headers = own_headers(&letter.record.headers);
    shown["headers"] = headers.iter().map(|(name, value)| json!([name, text(value)])).collect();
    output::json(&shown)?;
    if let Some(file) = out {
        let value = letter.record.value.as_deref().unwrap_or_default();
        std::fs::write(file, value).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}

async fn replay(
    context: &Context,
    kafka: &KafkaConfig,
    selected: &Selected,
    all: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    ensure!(all || !selected.is_everything(), "say which: positions, --service, --code, or --all of them");
    let (mut records, mut kept) = (Vec::new(), 0);
    for letter in letters(kafka, selected, Values::Kept).await? {
        match again(kafka, &letter) {
            Ok(record) => records.push(record),
            Err(reason) => {
                kept += 1;
                eprintln!("{}: {reason}", letter.position());
            }
        }
    }
    let publisher = Publisher::new(kafka)?;
    let progress = Progress::new("published again", Some(records.len() as u64));
    let total = records.len();
    let mut published = 0;
    let mut records = records.into_iter();
    loop {
        let chunk: Vec<OutputRecord> = records.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            break;
        }
        published += publisher.publish_many(chunk).await?;
        progress.set(published as u64);
        if stop.is_cancelled() {
            bail!("stopped after {published} of {total}, oldest first; the others are as they were");
        }
    }
    progress.finish();
    match context.json {
        true => output::json(&json!({"published": published, "left": kept})),
        false => output::line(format!(
            "{published} published again, {kept} left; they stay in {} until they are purged",
            kafka.prefix.name(Topic::DeadLetters)
        )),
    }
}

/// The record as it was, for the topic it came from.
fn again(kafka: &KafkaConfig, letter: &Letter) -> Result<OutputRecord, String> {
    let Letter { record, said, .. } = letter;
    if record.headers.iter().any(|(name, _)| name == VALUE_OMITTED_HEADER) {
        return Err(format!(
            "its value was too large for a dead letter; read it at {} {}:{}, while that topic keeps it",
            said.topic, said.partition, said.offset
        ));
    }
    let topic = kafka.prefix.parse(&said.topic);
    let topic =
        topic.ok_or_else(|| format!("it came from {:?}, which is not a topic of this prefix", said.topic))?;
    let (key, value) = (record.key.clone(), record.value.clone());
    Ok(OutputRecord { topic, key, value, headers: own_headers(&record.headers) })
}

async fn purge(kafka: &KafkaConfig, yes: bool) -> anyhow::Result<()> {
    ensure!(yes, "this deletes every dead letter for good; say --yes");
    delete_all_records(kafka, Topic::DeadLetters).await?;
    output::line(format!("{} is empty", kafka.prefix.name(Topic::DeadLetters)))
}
