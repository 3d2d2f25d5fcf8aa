//! `unprompt generate`: pictures of many prompts to images.v1, a folder or parquet files; a run that was stopped or killed goes on at
//! the picture where it was.

mod folder;
mod parquet;
mod sink;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::checkpoint::Checkpoint;
use unprompt_corpus::{Clean, Corpus};
use unprompt_generator::{Generator, Picture};
use unprompt_jobs::Progress;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::Prompt;
use uuid::Uuid;

use super::prompts::corpus::{self, Read};
use crate::cli::{Generate, Part};
use crate::context::Context;
use crate::output;

use sink::Sink;

/// Prompts read at once.
const PROMPTS: usize = 16;
/// How often it is kept how far the run is.
const SAVE_EVERY: Duration = Duration::from_secs(1);

pub async fn run(context: &Context, args: Generate, stop: CancellationToken) -> anyhow::Result<()> {
    let mut run = Run::open(context, args).await?;
    let began = Instant::now();
    let ended = run.all(&stop).await;
    run.close(ended.is_ok()).await?;
    let told = run.told(began.elapsed());
    ended.with_context(|| told.to_string())?;
    if context.json { output::json(&told) } else { output::line(told) }
}

/// What a later run of the same command wants to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    /// Fresh seeds are made of it.
    run: Uuid,
    drawn: u64,
    /// Pictures of prompts that are not acknowledged yet.
    beyond: HashSet<Uuid>,
}

struct Run {
    args: Generate,
    generator: Option<Generator>,
    sink: Sink,
    chunks: mpsc::Receiver<Read>,
    /// Pictures in one pass of the network: stopping waits no longer than for one.
    pass: usize,
    progress: Progress,
    /// None where the sources cannot be read again.
    checkpoint: Option<Checkpoint>,
    /// Prompts whose pictures are all where they belong.
    acknowledged: u64,
    /// Pictures that are there of the prompts after them.
    beyond: HashSet<Uuid>,
    saved: Instant,
    kept: Kept,
    /// Pictures that this run drew, and those that it could not draw.
    drawn: u64,
    failed: u64,
}

impl Run {
    async fn open(context: &Context, args: Generate) -> anyhow::Result<Self> {
        let (options, count_tokens) = corpus::options(context, &args.reading)?;
        let mut corpus = tokio::task::spawn_blocking(move || Corpus::open(options, count_tokens)).await??;
        let (settings, codec) = (context.generator()?, context.codec()?);
        let generator = tokio::task::spawn_blocking(move || Generator::open(&settings, codec)).await??;
        let checkpoint = checkpoint(context, &args, &generator, &mut corpus)?;
        let acknowledged = checkpoint.as_ref().map_or(0, |(_, acknowledged)| *acknowledged);
        let fresh = Kept { run: Uuid::new_v4(), drawn: 0, beyond: HashSet::new() };
        let kept: Kept = checkpoint.as_ref().and_then(|(checkpoint, _)| checkpoint.state()).unwrap_or(fresh);
        let sink = Sink::open(context, &args).await?;
        let progress = Progress::new("drawing (bytes of prompts)", corpus.bytes_total());
        let mut run = Self {
            chunks: corpus::read(corpus, PROMPTS),
            pass: context.config.generator.batch,
            progress: if acknowledged == 0 { progress } else { progress.going_on() },
            args,
            generator: Some(generator),
            sink,
            checkpoint: checkpoint.map(|(checkpoint, _)| checkpoint),
            acknowledged,
            beyond: kept.beyond.clone(),
            saved: Instant::now(),
            kept,
            drawn: 0,
            failed: 0,
        };
        // Fresh seeds are the same ones again, however early the run ends.
        run.save()?;
        Ok(run)
    }

    async fn all(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        loop {
            if stop.is_cancelled() {
                bail!(self.stopped());
            }
            match self.chunks.recv().await {
                Some(Read::Chunk { rows, bytes }) => self.prompts(rows, bytes, stop).await?,
                Some(Read::End { report, fault }) => {
                    if let Some(path) = &self.args.reading.report {
                        corpus::write_report(path, &report)?;
                    }
                    return fault.map_or(Ok(()), |fault| Err(fault.into()));
                }
                None => bail!("the thread that reads has ended: see above"),
            }
        }
    }

    /// Draws what is not there yet of some prompts, one pass of the network after the other, and puts it where it belongs.
    async fn prompts(
        &mut self,
        rows: Vec<Clean>,
        bytes: u64,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let acknowledged = rows.last().map_or(self.acknowledged, |clean| clean.seq + 1);
        let mine = rows.into_iter().filter(|clean| in_part(self.args.part, &clean.row.text));
        let missing: Vec<Prompt> = mine.flat_map(|clean| self.missing(clean)).collect();
        for pass in missing.chunks(self.pass) {
            if stop.is_cancelled() {
                bail!(self.stopped());
            }
            let pictures = self.draw(pass.to_vec()).await?;
            self.sink.write(&pictures).await?;
            self.drawn += pictures.len() as u64;
            self.beyond.extend(pictures.iter().map(|picture| picture.image_id));
            if self.sink.is_full() {
                self.sink.pack().await?;
            }
            if self.saved.elapsed() >= SAVE_EVERY {
                self.save()?;
            }
            self.progress.set_made(bytes, self.drawn, "pictures");
        }
        self.acknowledged = acknowledged;
        self.beyond.clear();
        Ok(())
    }

    /// The prompt once for each of its pictures that is not there yet, so that one that cannot be drawn takes no other with it.
    fn missing(&self, clean: Clean) -> Vec<Prompt> {
        let row = clean.row;
        let seeds = seeds(&self.args, self.kept.run, &row.text, &row.seeds);
        let there = |seed: &i64| {
            let generator = self.generator.as_ref();
            let id = generator.map(|generator| generator.image_id(&row.text, *seed));
            id.is_some_and(|id| self.beyond.contains(&id) || self.sink.has(id))
        };
        let prompt = |seed| Prompt {
            text: row.text.clone(),
            source: row.source.clone(),
            seeds: vec![seed],
            attributes: row.attributes.clone(),
        };
        seeds.into_iter().filter(|seed| !there(seed)).map(prompt).collect()
    }

    async fn draw(&mut self, prompts: Vec<Prompt>) -> anyhow::Result<Vec<Picture>> {
        let generator = self.generator.take().context("the generator is at work already")?;
        let drawing = tokio::task::spawn_blocking(move || {
            let drawn = generator.draw(&prompts);
            (generator, prompts, drawn)
        });
        let (generator, prompts, drawn) = drawing.await?;
        self.generator = Some(generator);
        let mut pictures = Vec::new();
        for (prompt, drawn) in prompts.iter().zip(drawn?) {
            match drawn {
                Ok(drawn) => pictures.extend(drawn),
                Err(rejection) => {
                    self.failed += 1;
                    let seed = prompt.seeds.first();
                    tracing::warn!(prompt = prompt.text, seed, reason = rejection.reason, "not drawn");
                }
            }
        }
        Ok(pictures)
    }

    fn save(&mut self) -> anyhow::Result<()> {
        if let Some(checkpoint) = &mut self.checkpoint {
            let (run, drawn) = (self.kept.run, self.kept.drawn + self.drawn);
            let kept = Kept { run, drawn, beyond: self.beyond.clone() };
            checkpoint.save_with(self.acknowledged, &kept)?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// Packs the rest and forgets how far it is when all is done, and keeps it otherwise.
    async fn close(&mut self, done: bool) -> anyhow::Result<()> {
        self.save()?;
        if done {
            self.progress.finish();
            self.sink.finish().await?;
            if let Some(checkpoint) = &self.checkpoint {
                checkpoint.remove()?;
            }
        }
        Ok(())
    }

    fn stopped(&self) -> String {
        match self.checkpoint {
            Some(_) => "stopped; give the same command again to go on".to_owned(),
            None => "stopped; a pipe cannot be gone on with".to_owned(),
        }
    }

    fn told(&self, took: Duration) -> Told {
        let per_s = self.drawn as f64 / took.as_secs_f64().max(1e-9);
        Told {
            drawn: self.drawn,
            drawn_before: self.kept.drawn,
            pictures_failed: self.failed,
            pictures_per_s: per_s,
            device: self.generator.as_ref().map_or("unknown", Generator::device),
            device_days_a_million: (self.drawn > 0).then(|| 1e6 / per_s / 86_400.0),
            place: self.sink.to_string(),
        }
    }
}

/// What a run did, and what a million pictures would cost.
#[derive(Debug, Serialize)]
struct Told {
    drawn: u64,
    drawn_before: u64,
    pictures_failed: u64,
    pictures_per_s: f64,
    device: &'static str,
    device_days_a_million: Option<f64>,
    place: String,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pictures drawn to {}", self.drawn, self.place)?;
        if self.drawn_before > 0 {
            write!(f, ", {} by an earlier run", self.drawn_before)?;
        }
        if self.pictures_failed > 0 {
            write!(f, "; {} could not be drawn: see the warnings", self.pictures_failed)?;
        }
        match self.device_days_a_million {
            Some(days) => write!(
                f,
                "; {:.3} a second on one {}: {days:.1} {}-days a million",
                self.pictures_per_s, self.device, self.device
            ),
            None => Ok(()),
        }
    }
}

/// Each prompt belongs to one of the parts, whatever lies beside it.
fn in_part(part: Option<Part>, text: &str) -> bool {
    part.is_none_or(|part| prompt_id(text).as_u128() % u128::from(part.of) == u128::from(part.number - 1))
}

/// The prompt's own, or as many as are wanted: counted from the first, or fresh ones that the run decides.
fn seeds(args: &Generate, run: Uuid, text: &str, own: &[i64]) -> Vec<i64> {
    if args.seeds.is_none() && args.first_seed.is_none() && !own.is_empty() {
        return own.to_vec();
    }
    let fresh = |k: u64| {
        let of_picture = Uuid::new_v5(&run, format!("{} {k}", prompt_id(text)).as_bytes());
        (of_picture.as_u64_pair().0 >> 1) as i64
    };
    let seed = |k: u64| args.first_seed.map_or_else(|| fresh(k), |first| first.wrapping_add(k as i64));
    (0..args.seeds.unwrap_or(1)).map(seed).collect()
}

/// Where a run of the same command is, where its sources can be read again: the corpus goes on there.
fn checkpoint(
    context: &Context,
    args: &Generate,
    generator: &Generator,
    corpus: &mut Corpus,
) -> anyhow::Result<Option<(Checkpoint, u64)>> {
    if !corpus.is_repeatable() {
        return Ok(None);
    }
    let mut fingerprint = corpus.fingerprint();
    let out = args.out.as_deref().map(std::path::absolute).transpose()?;
    let place = out.map_or_else(|| "images.v1".to_owned(), |out| out.display().to_string());
    fingerprint.sources.push(format!("into {place}"));
    if let Some(part) = args.part {
        fingerprint.sources.push(format!("part {} of {}", part.number, part.of));
    }
    let ours = json!({
        "model": generator.model(), "how": generator.identity(), "seeds": args.seeds, "first_seed": args.first_seed,
        "parquet": args.parquet,
    });
    ensure!(fingerprint.options.is_object(), "the corpus tells of no options");
    fingerprint.options["generate"] = ours;
    let folder = context.data_dir().join("generations");
    let (checkpoint, acknowledged) = Checkpoint::open(&folder, fingerprint, args.reading.restart)?;
    if acknowledged > 0 {
        eprintln!("the pictures of {acknowledged} prompts were drawn by an earlier run: going on after them");
        corpus.resume(acknowledged);
    }
    Ok(Some((checkpoint, acknowledged)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(flags: &str) -> Generate {
        let words = ["unprompt", "generate", "--from", "prompts.parquet"].into_iter();
        match Cli::parse_from(words.chain(flags.split_whitespace())).command {
            Command::Generate(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fresh_seeds_are_the_runs_and_fixed_ones_are_everybodys() {
        let (run, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let fresh = seeds(&args("--seeds 3"), run, "a star", &[7]);
        assert_eq!(fresh.len(), 3);
        assert_eq!(fresh, seeds(&args("--seeds 3"), run, "a star", &[]));
        assert_ne!(fresh, seeds(&args("--seeds 3"), other, "a star", &[]));
        assert_ne!(fresh, seeds(&args("--seeds 3"), run, "a ring", &[]));
        assert!(fresh.iter().all(|seed| *seed >= 0) && fresh[0] != fresh[1]);
        assert_eq!(seeds(&args("--seeds 2 --first-seed 40"), run, "a star", &[7]), [40, 41]);
        assert_eq!(seeds(&args(""), run, "a star", &[7, 9]), [7, 9]);
        assert_eq!(seeds(&args(""), run, "a star", &[]).len(), 1);
    }

    #[test]
    fn every_prompt_is_in_one_part() {
        let part = |number| Some(Part { number, of: 3 });
        let mut sizes = [0; 3];
        for at in 0..300 {
            let text = format!("a star number {at}");
            let parts: Vec<u64> = (1..=3).filter(|number| in_part(part(*number), &text)).collect();
            assert_eq!(parts.len(), 1);
            sizes[parts[0] as usize - 1] += 1;
        }
        assert!(sizes.iter().all(|size| *size > 60), "{sizes:?}");
        assert!(in_part(None, "anything"));
    }

    #[test]
    fn the_cost_of_a_million_is_told_at_the_rate_that_was_seen() {
        let told = Told {
            drawn: 20,
            drawn_before: 5,
            pictures_failed: 1,
            pictures_per_s: 2.0,
            device: "processor",
            device_days_a_million: Some(1e6 / 2.0 / 86_400.0),
            place: "pictures".to_owned(),
        };
        let told = told.to_string();
        assert!(told.contains("20 pictures") && told.contains("5.8 processor-days a million"), "{told}");
    }
}
