//! `unprompt prompts`: bring prompts in, and print prompts of the tiny world's grammar.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{OutputRecord, Publisher, ensure_topics};
use unprompt_tiny_world::{Grammar, Split};

use crate::cli::{Import, Prompts, Sample};
use crate::context::Context;
use crate::output;
use unprompt_stream::progress::Progress;

/// A line of a JSON-lines file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Line {
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seeds: Vec<i64>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    attributes: std::collections::BTreeMap<String, String>,
}

/// Prompts published at once.
const CHUNK: usize = 1_000;

/// Longest line read, in bytes; what is longer is not a prompt.
const MAX_LINE_BYTES: u64 = 1 << 20;

pub async fn run(context: &Context, command: Prompts, stop: CancellationToken) -> anyhow::Result<()> {
    match command {
        Prompts::Import(args) => import(context, args, stop).await,
        Prompts::Sample(args) => sample(&args),
    }
}

/// The record that publishes `prompt`.
pub fn record(codec: &Codec, topic_name: &str, prompt: &Prompt) -> anyhow::Result<OutputRecord> {
    Ok(OutputRecord {
        topic: Topic::Prompts,
        key: Some(prompt_id(&prompt.text).to_string().into_bytes()),
        value: Some(codec.encode(topic_name, prompt)?),
        headers: Vec::new(),
    })
}

async fn import(context: &Context, args: Import, stop: CancellationToken) -> anyhow::Result<()> {
    let (kafka, codec) = (context.kafka(), context.codec()?);
    ensure_topics(&kafka).await?;
    let publisher = Publisher::new(&kafka)?;
    let topic_name = kafka.prefix.name(Topic::Prompts);
    let (mut published, mut skipped) = (0_u64, 0_u64);
    for file in &args.files {
        let mut lines = Lines::open(file, &args)?;
        let progress = Progress::new("importing (bytes)", lines.size);
        loop {
            let (chunk, bad) = lines.next_chunk(file)?;
            skipped += bad;
            if chunk.is_empty() {
                break;
            }
            let records: Vec<_> =
                chunk.iter().map(|prompt| record(&codec, &topic_name, prompt)).collect::<Result<_, _>>()?;
            published += publisher.publish_many(records).await? as u64;
            progress.set(lines.read);
            if stop.is_cancelled() {
                let (file, line) = (file.display(), lines.number);
                bail!(
                    "stopped after {published} prompts ({file} to line {line}); importing them again is harmless"
                );
            }
        }
        progress.finish();
    }
    report(context, published, skipped)
}

fn report(context: &Context, published: u64, skipped: u64) -> anyhow::Result<()> {
    if context.json {
        return output::json(&serde_json::json!({"published": published, "skipped": skipped}));
    }
    output::line(format!("{published} prompts published, {skipped} lines skipped"))
}

/// Prompts of one file, a line each.
struct Lines {
    reader: Box<dyn BufRead>,
    json: bool,
    source: String,
    number: u64,
    read: u64,
    size: Option<u64>,
}

impl Lines {
    fn open(path: &Path, args: &Import) -> anyhow::Result<Self> {
        let stdin = path == Path::new("-");
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let json = if stdin { args.jsonl } else { matches!(extension, "jsonl" | "ndjson") };
        let (reader, size): (Box<dyn BufRead>, _) = if stdin {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let size = file.metadata()?.len();
            (Box::new(BufReader::new(file)), Some(size))
        };
        let source = args.source.clone().unwrap_or_else(|| source_of(path, stdin));
        Ok(Self { reader, json, source, number: 0, read: 0, size })
    }

    /// Up to a chunk of prompts, none at the end, and how many lines before them were none.
    fn next_chunk(&mut self, path: &Path) -> anyhow::Result<(Vec<Prompt>, u64)> {
        let (mut chunk, mut bad) = (Vec::new(), 0);
        while chunk.len() < CHUNK {
            match self.next_prompt()? {
                None => break,
                Some(Ok(prompt)) => chunk.push(prompt),
                Some(Err(reason)) => {
                    bad += 1;
                    eprintln!("{}:{}: skipped: {reason}", path.display(), self.number);
                }
            }
        }
        Ok((chunk, bad))
    }

    /// The next line that is not blank: a prompt, or why it is none.
    fn next_prompt(&mut self) -> anyhow::Result<Option<Result<Prompt, String>>> {
        loop {
            let mut line = Vec::new();
            let read = self.reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.read += read as u64;
            if read as u64 == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
                self.skip_rest_of_line()?;
                return Ok(Some(Err(format!("the line is longer than {MAX_LINE_BYTES} bytes"))));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(self.parse(&line)));
            }
        }
    }

    fn skip_rest_of_line(&mut self) -> io::Result<()> {
        self.read += self.reader.skip_until(b'\n')? as u64;
        Ok(())
    }

    fn parse(&self, line: &[u8]) -> Result<Prompt, String> {
        let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
        let line = match self.json {
            true => serde_json::from_str(text).map_err(|e| format!("not {{\"text\": …}}: {e}"))?,
            false => Line { text: text.trim().to_owned(), ..Line::default() },
        };
        if line.text.trim().is_empty() {
            return Err("the text is empty".into());
        }
        let source = line.source.unwrap_or_else(|| self.source.clone());
        Ok(Prompt { text: line.text, source, seeds: line.seeds, attributes: line.attributes })
    }
}

fn source_of(path: &Path, stdin: bool) -> String {
    match path.file_stem() {
        Some(stem) if !stdin => stem.to_string_lossy().into_owned(),
        _ => "stdin".to_owned(),
    }
}

fn sample(args: &Sample) -> anyhow::Result<()> {
    for (at, scene) in Grammar::new(args.seed).scenes(Split::Train).take(args.count).enumerate() {
        let first = (at * args.seeds) as i64;
        let seeds = (first..first + args.seeds as i64).collect();
        output::json_line(&Line {
            text: scene.prompt(),
            source: Some("tiny-world".into()),
            seeds,
            ..Line::default()
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(name: &str, content: &str) -> Vec<Result<Prompt, String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let args = Import { files: vec![path.clone()], source: None, jsonl: false };
        let mut lines = Lines::open(&path, &args).unwrap();
        std::iter::from_fn(|| lines.next_prompt().unwrap()).collect()
    }

    #[test]
    fn text_files_hold_a_prompt_a_line() {
        let read = prompts("some.txt", "a red star\n\n  a blue house  \n");
        let texts: Vec<_> = read.iter().map(|prompt| prompt.as_ref().unwrap().text.as_str()).collect();
        assert_eq!(texts, ["a red star", "a blue house"]);
        assert_eq!(read[0].as_ref().unwrap().source, "some");
    }

    #[test]
    fn json_lines_carry_source_and_seeds_and_a_bad_one_does_not_stop_the_rest() {
        let read = prompts(
            "p.jsonl",
            "{\"text\":\"a\",\"source\":\"s\",\"seeds\":[1,2]}\nnonsense\n{\"text\":\" \"}\n{\"text\":\"b\"}\n",
        );
        assert_eq!(read[0].as_ref().unwrap().seeds, [1, 2]);
        assert_eq!(read[0].as_ref().unwrap().source, "s");
        assert!(read[1].is_err() && read[2].is_err());
        assert_eq!(read[3].as_ref().unwrap().text, "b");
    }

    #[test]
    fn a_line_without_end_is_skipped_and_the_next_is_read() {
        let long = "x".repeat(MAX_LINE_BYTES as usize + 10);
        let read = prompts("p.txt", &format!("{long}\na red star\n"));
        assert!(read[0].as_ref().unwrap_err().contains("longer"));
        assert_eq!(read[1].as_ref().unwrap().text, "a red star");
    }
}
