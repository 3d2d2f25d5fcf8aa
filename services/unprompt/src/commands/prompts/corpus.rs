//! Reading a corpus for a command: its flags, and a thread that reads ahead. It knows nothing of where prompts go.

use std::path::Path;

use anyhow::Context as _;
use tokio::sync::mpsc;
use unprompt_corpus::clean::{Cleaning, CountTokens};
use unprompt_corpus::reader::{Format, Mapping, Reading};
use unprompt_corpus::report::Report;
use unprompt_corpus::{Clean, Corpus, CorpusError, Options};
use unprompt_models::token_count::token_counter;

use crate::cli::ReadCorpus;
use crate::context::Context;

/// Chunks read ahead of those that are worked on.
const AHEAD: usize = 4;

/// A chunk of kept rows and how far reading was then; the report comes last.
#[derive(Debug)]
pub enum Read {
    Chunk { rows: Vec<Clean>, bytes: u64 },
    End { report: Report, fault: Option<CorpusError> },
}

/// Reads `chunk` rows at a time on a thread of its own, a few chunks ahead; it ends when nobody listens any more.
pub fn read(mut corpus: Corpus, chunk: usize) -> mpsc::Receiver<Read> {
    let (send, chunks) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let fault = loop {
            match corpus.next_chunk(chunk) {
                Ok(rows) if rows.is_empty() => break None,
                Ok(rows) => {
                    let bytes = corpus.bytes_read();
                    if send.blocking_send(Read::Chunk { rows, bytes }).is_err() {
                        return;
                    }
                }
                Err(fault) => break Some(fault),
            }
        };
        // Nobody listens only where the command has failed already.
        let _ = send.blocking_send(Read::End { report: corpus.report(), fault });
    });
    chunks
}

/// What is to be read and how it is cleaned, and what counts its tokens.
pub fn options(context: &Context, args: &ReadCorpus) -> anyhow::Result<(Options, Option<CountTokens>)> {
    let mut mapping = Mapping { attributes: args.attributes.clone(), ..Mapping::default() };
    args.column.iter().try_for_each(|pair| mapping.set(pair))?;
    let said = args.format.as_deref().map(str::parse::<Format>).transpose()?;
    let options = Options {
        sources: args.sources.clone(),
        reading: Reading {
            format: said.or(args.jsonl.then_some(Format::Jsonl)),
            mapping,
            source: args.source.clone(),
            no_header: args.no_header,
        },
        cleaning: Cleaning {
            min_chars: args.min_chars,
            max_chars: args.max_chars,
            min_tokens: args.min_tokens,
            max_tokens: args.max_tokens,
            languages: args.language.clone(),
            keep_duplicates: args.keep_duplicates,
            min_similarity: args.min_similarity,
            min_aesthetic: args.min_aesthetic,
            max_nsfw: args.max_nsfw,
        },
    };
    Ok((options, count_tokens(context, args)?))
}

/// MiniLM's tokens, where they are to be counted.
fn count_tokens(context: &Context, args: &ReadCorpus) -> anyhow::Result<Option<CountTokens>> {
    if args.min_tokens.is_none() && args.max_tokens.is_none() {
        return Ok(None);
    }
    // Its folder alone: no other model is needed.
    let folder = context.minilm().context("tokens cannot be counted without MiniLM")?;
    let counter = token_counter(&folder).context("tokens cannot be counted")?;
    Ok(Some(Box::new(counter)))
}

/// Leaves what was dropped and why in a file.
pub fn write_report(path: &Path, report: &Report) -> anyhow::Result<()> {
    let json = serde_json::to_vec_pretty(report)?;
    std::fs::write(path, json).with_context(|| format!("the report cannot be written to {}", path.display()))
}
