//! `unprompt generate`: draws pictures of many prompts to images.v1, a folder or parquet files.

use std::fmt::Write as _;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use unprompt_jobs::generation::{Generation, GenerationSettings, GenerationSummary, PictureTarget, Seeds};

use super::prompts::corpus;
use crate::cli::Generate;
use crate::context::Context;
use crate::output;

pub async fn run(context: &Context, args: Generate, stop: CancellationToken) -> anyhow::Result<()> {
    let corpus = corpus::open(context, &args.reading).await?;
    let checkpoints = corpus::checkpoints(context, &args.reading);
    let settings = settings(context, &args)?;
    let mut generation = Generation::open(corpus, context.codec()?, settings, &checkpoints).await?;
    if generation.resumed_at() > 0 {
        eprintln!(
            "the pictures of {} prompts were drawn by an earlier run: resuming after them",
            generation.resumed_at()
        );
    }
    let done = generation.run(&stop).await;
    corpus::write_report(&args.reading, generation.report())?;
    let summary = generation.summary();
    done.with_context(|| words(&summary))?;
    if context.json { output::json(&summary) } else { output::line(words(&summary)) }
}

fn settings(context: &Context, args: &Generate) -> anyhow::Result<GenerationSettings> {
    Ok(GenerationSettings {
        generator: context.generator()?,
        seeds: Seeds { count: args.seeds, first: args.first_seed },
        part: args.part,
        target: match (&args.out, args.parquet) {
            (None, _) => PictureTarget::Topic(context.kafka()),
            (Some(folder), false) => PictureTarget::Folder(folder.clone()),
            (Some(folder), true) => {
                PictureTarget::Parquet { folder: folder.clone(), rows: args.rows as usize }
            }
        },
    })
}

/// Returns the summary as text.
fn words(summary: &GenerationSummary) -> String {
    let GenerationSummary { drawn, drawn_before, pictures_failed, pictures_per_s, device, .. } = summary;
    let mut words = format!("{drawn} pictures drawn to {}", summary.place);
    // Writing to a string cannot fail.
    if *drawn_before > 0 {
        let _ = write!(words, ", {drawn_before} by an earlier run");
    }
    if *pictures_failed > 0 {
        let _ = write!(words, "; {pictures_failed} could not be drawn: see the warnings");
    }
    if let Some(days) = summary.device_days_a_million {
        let _ = write!(
            words,
            "; {pictures_per_s:.3} a second on one {device}: {days:.1} {device}-days a million"
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_gives_device_days_per_million_pictures() {
        let summary = GenerationSummary {
            drawn: 20,
            drawn_before: 5,
            pictures_failed: 1,
            pictures_per_s: 2.0,
            device: "processor",
            device_days_a_million: Some(1e6 / 2.0 / 86_400.0),
            place: "pictures".to_owned(),
        };
        let words = words(&summary);
        assert!(words.contains("20 pictures") && words.contains("5.8 processor-days a million"), "{words}");
    }
}
