//! `unprompt dead-letters`: lists, shows, replays and purges rejected records.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use unprompt_jobs::Progress;
use unprompt_schemas::dead_letter::names::TIMESTAMP;
use unprompt_schemas::dead_letter::{DeadLetter, own_headers};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{
    InputRecord, KafkaConfig, Observer, OutputRecord, Present, Publisher, StreamError, TopicEnds,
    VALUE_OMITTED_HEADER, delete_records, read_to_end,
};

use crate::cli::{DeadLetters, Selected};
use crate::context::Context;
use crate::output;

/// Maximum number of records to publish together.
const CHUNK: usize = 64;
/// A chunk of this many bytes is full too, because a picture may have 20 MB.
const CHUNK_BYTES: usize = 32 << 20;
/// Maximum length of a reason in the table.
const REASON_CHARS: usize = 100;

pub async fn run(context: &Context, command: DeadLetters, stop: CancellationToken) -> anyhow::Result<()> {
    let kafka = context.kafka();
    match command {
        DeadLetters::List { selected, limit } => {
            unless_stopped(&stop, list(context, &kafka, &selected, limit)).await
        }
        DeadLetters::Show { position, out } => {
            unless_stopped(&stop, show(&kafka, &position, out.as_deref())).await
        }
        DeadLetters::Replay { selected, all } => replay(context, &kafka, &selected, all, &stop).await,
        DeadLetters::Purge { yes, up_to } => purge(context, &kafka, yes, &up_to, &stop).await,
    }
}

/// Returns the result of `reading`, or an error once `stop` is cancelled. Reading waits for a
/// broker that becomes unreachable.
async fn unless_stopped<T, E: Into<anyhow::Error>>(
    stop: &CancellationToken,
    reading: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    match stop.run_until_cancelled(reading).await {
        Some(read) => read.map_err(Into::into),
        None => bail!("stopped while reading the dead letters"),
    }
}

/// A dead letter with its parsed headers.
struct DeadLetterRow {
    record: InputRecord,
    bytes: Option<usize>,
    said: DeadLetter,
}

impl DeadLetterRow {
    /// Parses a record. A foreign record on the topic does not say where it came from.
    fn of(record: InputRecord) -> Self {
        let said = DeadLetter::parse(&record.headers).unwrap_or_else(|error| DeadLetter {
            code: "not-one-of-ours".into(),
            error: error.to_string(),
            ..DeadLetter::default()
        });
        Self { bytes: record.value.as_ref().map(Vec::len), record, said }
    }

    fn position(&self) -> String {
        position(self.record.partition, self.record.offset)
    }

    fn is_among(&self, selected: &Selected) -> bool {
        let is = |asked: &Option<String>, value: &str| asked.as_ref().is_none_or(|asked| asked == value);
        is(&selected.service, &self.said.service)
            && is(&selected.code, &self.said.code)
            && (selected.positions.is_empty() || selected.positions.contains(&self.position()))
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

fn position(partition: i32, offset: i64) -> String {
    format!("{partition}:{offset}")
}

/// Keeps or drops the values, which may be pictures of 20 MB.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Kept,
    Left,
}

/// Returns the current beginnings and ends of the topic.
async fn ends(kafka: &KafkaConfig) -> anyhow::Result<TopicEnds> {
    let observed = Observer::new(kafka).look(&[]).await?;
    let found = observed.topics.into_iter().find(|ends| ends.topic == Topic::DeadLetters);
    let missing = || StreamError::TopicMissing {
        topic: kafka.prefix.name(Topic::DeadLetters),
        brokers: kafka.brokers.clone(),
    };
    Ok(found.filter(|ends| !ends.partitions.is_empty()).ok_or_else(missing)?)
}

/// Shows the progress of reading the topic, in offsets. There may be fewer records, because
/// transactions leave markers.
fn progress(ends: &TopicEnds) -> Progress {
    Progress::new("dead letters read", u64::try_from(ends.offsets()).ok())
}

/// Returns the selected dead letters, oldest first.
async fn letters(
    kafka: &KafkaConfig,
    selected: &Selected,
    values: Values,
) -> anyhow::Result<Vec<DeadLetterRow>> {
    let mut letters = Vec::new();
    let progress = progress(&ends(kafka).await?);
    let mut read = 0;
    read_to_end(kafka, &[Topic::DeadLetters], |record| {
        read += 1;
        progress.set(read);
        let mut letter = DeadLetterRow::of(record);
        if letter.is_among(selected) {
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
        return output::json(&letters[newest..].iter().map(DeadLetterRow::as_json).collect::<Vec<_>>());
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
    output::json_pretty(&shown)?;
    if let Some(file) = out {
        let value = letter.record.value.as_deref().unwrap_or_default();
        std::fs::write(file, value).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}

/// The progress of a replay.
#[derive(Debug, Default)]
struct Replayed {
    read: usize,
    published: usize,
    left: usize,
    /// The offset after the last record read, by partition.
    up_to: BTreeMap<i32, i64>,
}

impl Replayed {
    fn up_to(&self) -> Vec<String> {
        self.up_to.iter().map(|(partition, offset)| position(*partition, *offset)).collect()
    }

    fn as_json(&self) -> Value {
        json!({"read": self.read, "published": self.published, "left": self.left, "up_to": self.up_to()})
    }

    /// Describes what was done and how to delete the dead letters. A purge does not know the
    /// selection of the replay.
    fn told(&self, topic: &str) -> String {
        let Self { read, published, left, .. } = self;
        let done =
            format!("{published} published again, {left} skipped; all stay in {topic} until they are purged");
        if self.up_to.is_empty() {
            return done;
        }
        let which = match read - published {
            0 => format!("all {read} dead letters that were read"),
            others => format!("all {read} dead letters that were read, {others} of them not published again"),
        };
        let up_to = self.up_to().join(" --up-to ");
        format!("{done}\nto delete {which}: unprompt dead-letters purge --yes --up-to {up_to}")
    }
}

/// Records to publish together.
#[derive(Debug, Default)]
struct Chunk {
    records: Vec<OutputRecord>,
    bytes: usize,
}

impl Chunk {
    fn push(&mut self, record: OutputRecord) {
        self.bytes += record.size_bytes();
        self.records.push(record);
    }

    fn is_full(&self) -> bool {
        self.records.len() >= CHUNK || self.bytes >= CHUNK_BYTES
    }

    fn take(&mut self) -> Vec<OutputRecord> {
        self.bytes = 0;
        std::mem::take(&mut self.records)
    }
}

async fn replay(
    context: &Context,
    kafka: &KafkaConfig,
    selected: &Selected,
    all: bool,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    ensure!(all || !selected.is_everything(), "select by position, --service or --code, or give --all");
    let mut done = Replayed::default();
    let replayed = replay_present(kafka, selected, stop, &mut done).await;
    replayed.with_context(|| format!("{} were published again before this error", done.published))?;
    if context.json {
        return output::json(&done.as_json());
    }
    output::line(done.told(&kafka.prefix.name(Topic::DeadLetters)))
}

/// Publishes the current dead letters chunk by chunk. Records that are rejected again come after
/// these and stay.
async fn replay_present(
    kafka: &KafkaConfig,
    selected: &Selected,
    stop: &CancellationToken,
    done: &mut Replayed,
) -> anyhow::Result<()> {
    let publisher = Publisher::new(kafka)?;
    let progress = progress(&unless_stopped(stop, ends(kafka)).await?);
    let mut present = unless_stopped(stop, Present::open(kafka, &[Topic::DeadLetters])).await?;
    let mut chunk = Chunk::default();
    while let Some(record) = unless_stopped(stop, present.next()).await? {
        done.read += 1;
        progress.set(done.read as u64);
        done.up_to.insert(record.partition, record.offset + 1);
        let letter = DeadLetterRow::of(record);
        if !letter.is_among(selected) {
            continue;
        }
        match again(kafka, &letter.said, letter.record) {
            Ok(record) => chunk.push(record),
            Err(reason) => {
                done.left += 1;
                eprintln!("{reason}");
            }
        }
        if chunk.is_full() {
            done.published += publisher.publish_many(chunk.take()).await?;
        }
    }
    done.published += publisher.publish_many(chunk.take()).await?;
    progress.finish();
    Ok(())
}

/// Returns the original record, for the topic that it came from.
fn again(kafka: &KafkaConfig, said: &DeadLetter, record: InputRecord) -> Result<OutputRecord, String> {
    let position = position(record.partition, record.offset);
    if record.headers.iter().any(|(name, _)| name == VALUE_OMITTED_HEADER) {
        return Err(format!(
            "{position}: it was too large for a dead letter; read it at {} {}:{}, while that topic keeps it",
            said.topic, said.partition, said.offset
        ));
    }
    let topic = kafka.prefix.parse(&said.topic).ok_or_else(|| {
        format!("{position}: it came from {:?}, which is not a topic of this prefix", said.topic)
    })?;
    let mut headers = own_headers(&record.headers);
    // A prompt that was deleted meanwhile stays deleted.
    headers.push((TIMESTAMP.to_owned(), said.timestamp_ms.to_string().into_bytes()));
    Ok(OutputRecord { topic, key: record.key, value: record.value, headers })
}

async fn purge(
    context: &Context,
    kafka: &KafkaConfig,
    yes: bool,
    up_to: &[(i32, i64)],
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let topic = kafka.prefix.name(Topic::DeadLetters);
    let ends = unless_stopped(stop, ends(kafka)).await?.partitions;
    let before = cut(&ends, up_to)?;
    let offsets: i64 = before.iter().map(|(partition, next)| next - ends[partition].0).sum();
    ensure!(yes, "this deletes {offsets} offsets of {topic} for good; confirm with --yes");
    delete_records(kafka, Topic::DeadLetters, &before).await?;
    match context.json {
        true => output::json(&json!({"deleted_offsets": offsets})),
        false => {
            output::line(format!("offsets deleted from {topic}, including transaction markers: {offsets}"))
        }
    }
}

/// Returns the first offset to keep, by partition: the given one, or the current end of the
/// partition.
fn cut(ends: &BTreeMap<i32, (i64, i64)>, up_to: &[(i32, i64)]) -> anyhow::Result<BTreeMap<i32, i64>> {
    if up_to.is_empty() {
        return Ok(ends.iter().map(|(partition, (_, high))| (*partition, *high)).collect());
    }
    let kept = |(partition, offset): &(i32, i64)| -> anyhow::Result<(i32, i64)> {
        let (low, high) =
            ends.get(partition).with_context(|| format!("there is no partition {partition}"))?;
        ensure!(offset <= high, "partition {partition} ends before {offset}, at {high}");
        Ok((*partition, *offset.max(low)))
    };
    up_to.iter().map(kept).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn letter(value_bytes: usize) -> OutputRecord {
        OutputRecord {
            topic: Topic::Images,
            key: None,
            value: Some(vec![0; value_bytes]),
            headers: Vec::new(),
        }
    }

    #[test]
    fn a_chunk_is_bounded_by_count_and_by_bytes() {
        let mut chunk = Chunk::default();
        (1..CHUNK).for_each(|_| chunk.push(letter(1)));
        assert!(!chunk.is_full());
        chunk.push(letter(1));
        assert!(chunk.is_full());
        assert_eq!(chunk.take().len(), CHUNK);
        chunk.push(letter(CHUNK_BYTES - 1));
        assert!(!chunk.is_full(), "taken records no longer count");
        chunk.push(letter(1));
        assert!(chunk.is_full());
    }

    #[test]
    fn a_partial_replay_says_that_a_purge_deletes_the_other_records_too() {
        let done = Replayed { read: 3, published: 1, left: 0, up_to: [(0, 5), (2, 1)].into() };
        let told = done.told("dead-letters.v1");
        assert!(told.contains("all 3 dead letters that were read, 2 of them not published again"), "{told}");
        assert!(told.ends_with("purge --yes --up-to 0:5 --up-to 2:1"), "{told}");
        let all = Replayed { published: 3, ..done }.told("dead-letters.v1");
        assert!(!all.contains("not published again"), "{all}");
    }

    #[test]
    fn a_purge_deletes_only_the_requested_offsets() {
        let ends = [(0, (2, 9)), (1, (0, 4))].into();
        assert_eq!(cut(&ends, &[]).unwrap(), [(0, 9), (1, 4)].into());
        assert_eq!(cut(&ends, &[(0, 5)]).unwrap(), [(0, 5)].into(), "the other partition is left alone");
        assert_eq!(cut(&ends, &[(0, 1)]).unwrap(), [(0, 2)].into(), "that is gone already");
        assert!(cut(&ends, &[(0, 10)]).is_err() && cut(&ends, &[(2, 0)]).is_err());
    }

    #[tokio::test]
    async fn a_stopped_replay_does_not_wait_for_the_broker() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let kafka = KafkaConfig::embedded(silent.local_addr().unwrap().to_string());
        let (stop, mut done) = (CancellationToken::new(), Replayed::default());
        stop.cancel();
        let stopped = replay_present(&kafka, &Selected::default(), &stop, &mut done).await;
        assert!(stopped.unwrap_err().to_string().contains("stopped while reading"));
    }
}
