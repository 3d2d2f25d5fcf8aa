//! Applies the flags of the commands that read a corpus.

use anyhow::Context as _;
use unprompt_corpus::clean::Cleaning;
use unprompt_corpus::reader::{Format, Mapping, Reading};
use unprompt_corpus::report::CorpusReport;
use unprompt_corpus::{Corpus, Options};
use unprompt_jobs::{CheckpointSettings, open_corpus};

use crate::cli::ReadCorpus;
use crate::context::Context;

/// Opens the corpus that the flags describe.
pub async fn open(context: &Context, args: &ReadCorpus) -> anyhow::Result<Corpus> {
    Ok(open_corpus(options(args)?, context.models()).await?)
}

/// Returns the command's checkpoint settings.
pub fn checkpoints(context: &Context, args: &ReadCorpus) -> CheckpointSettings {
    CheckpointSettings { data_dir: context.data_dir().to_owned(), restart: args.restart }
}

fn options(args: &ReadCorpus) -> anyhow::Result<Options> {
    let mut mapping = Mapping { attributes: args.attributes.clone(), ..Mapping::default() };
    args.column.iter().try_for_each(|pair| mapping.set(pair))?;
    let format = args.format.as_deref().map(str::parse::<Format>).transpose()?;
    Ok(Options {
        sources: args.sources.clone(),
        reading: Reading {
            format: format.or(args.jsonl.then_some(Format::Jsonl)),
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
    })
}

/// Writes what was dropped and why to the file of `--report`, once all rows are read.
pub fn write_report(args: &ReadCorpus, report: Option<&CorpusReport>) -> anyhow::Result<()> {
    let (Some(path), Some(report)) = (&args.report, report) else { return Ok(()) };
    let json = serde_json::to_vec_pretty(report)?;
    std::fs::write(path, json).with_context(|| format!("the report cannot be written to {}", path.display()))
}
