//! `unprompt prompts sample`: prints prompts of the tiny world's grammar as JSON lines, or writes a
//! table.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{bail, ensure};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::table::{Columns, ExportRow, TableWriter};
use unprompt_jobs::Progress;
use unprompt_schemas::identity::prompt_id;
use unprompt_tiny_world::{self as tiny_world, Grammar, Scene, Split};

use crate::cli::Sample;
use crate::output;

/// Number of rows to write together.
const CHUNK: usize = 4_096;
const SOURCE: &str = "tiny-world";

/// A prompt as `prompts import` reads it.
#[derive(Serialize)]
struct Line {
    text: String,
    source: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    seeds: Vec<i64>,
}

pub fn run(args: &Sample, stop: &CancellationToken) -> anyhow::Result<()> {
    let all = tiny_world::count();
    ensure!(
        !args.distinct || args.count as u64 <= all / 2,
        "the grammar has {all} prompts, and --distinct finds at most half of them: ask for {} or fewer",
        all / 2
    );
    match &args.out {
        Some(path) => table(args, path, stop),
        None => lines(args).try_for_each(|line| output::json(&line)),
    }
}

fn lines(args: &Sample) -> impl Iterator<Item = Line> + use<> {
    let seeds = args.seeds;
    let mut before = args.distinct.then(HashSet::<Scene>::new);
    let is_wanted = move |scene: &Scene| before.as_mut().is_none_or(|before| before.insert(*scene));
    let scenes = Grammar::new(args.seed).scenes(Split::Train).filter(is_wanted).take(args.count);
    scenes.enumerate().map(move |(at, scene)| {
        let first = (at * seeds) as i64;
        Line { text: scene.prompt(), source: SOURCE, seeds: (first..first + seeds as i64).collect() }
    })
}

fn table(args: &Sample, path: &Path, stop: &CancellationToken) -> anyhow::Result<()> {
    let columns = Columns { seeds: args.seeds > 0, ..Columns::default() };
    let mut writer = TableWriter::create(path, columns)?;
    let progress = Progress::new("sampling prompts", Some(args.count as u64));
    let mut lines = lines(args);
    loop {
        let rows: Vec<ExportRow> = lines.by_ref().take(CHUNK).map(row).collect();
        if rows.is_empty() {
            break;
        }
        if stop.is_cancelled() {
            bail!("stopped; {} was not written", path.display());
        }
        writer.write(&rows)?;
        progress.inc(rows.len() as u64);
    }
    progress.finish();
    let rows = writer.finish()?;
    output::line(format!("{rows} prompts in {}", path.display()))
}

fn row(line: Line) -> ExportRow {
    ExportRow {
        prompt_id: prompt_id(&line.text),
        text: line.text,
        sources: vec![line.source.to_owned()],
        seeds: line.seeds,
        ..ExportRow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(distinct: bool) -> Vec<String> {
        let args = Sample { count: 50_000, seed: 1, distinct, seeds: 0, out: None };
        lines(&args).map(|line| line.text).collect()
    }

    #[test]
    fn distinct_prompts_are_the_same_without_the_repetitions() {
        let (all, distinct) = (texts(false), texts(true));
        let mut seen = HashSet::new();
        let expected: Vec<&String> = all.iter().filter(|text| seen.insert(*text)).collect();
        assert!(expected.len() < all.len(), "nothing was repeated");
        assert_eq!(distinct.len(), all.len());
        assert_eq!(distinct[..expected.len()].iter().collect::<Vec<_>>(), expected);
        assert_eq!(distinct.iter().collect::<HashSet<_>>().len(), distinct.len());
    }

    #[test]
    fn more_distinct_prompts_than_can_be_found_are_refused() {
        let args = Sample { count: 30_000_000, seed: 1, distinct: true, seeds: 0, out: None };
        let error = run(&args, &CancellationToken::new()).unwrap_err().to_string();
        assert!(error.contains("37800000") && error.contains("18900000"), "{error}");
    }
}
