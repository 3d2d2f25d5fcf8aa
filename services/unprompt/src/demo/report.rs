//! The demo's report of counts and scores, for people and for programs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use unprompt_jobs::evaluation::{CalibrationScores, Scores};

use super::examples::{self, Example};
use crate::commands::evaluate::table;
use crate::output;

/// Counts by readers that share nothing with the services.
#[derive(Debug, Serialize)]
pub struct Counts {
    pub prompts_indexed: u64,
    pub images_generated: u64,
    pub train: usize,
    pub validation: usize,
    pub held_out: usize,
    /// All pictures on images.v1, whoever published them.
    pub published: usize,
    pub predicted: usize,
    pub dead_letters: u64,
    /// Pictures that are neither predicted nor dead letters.
    pub lost: usize,
}

/// The duration of each part in seconds.
#[derive(Debug, Default)]
pub struct Seconds(pub BTreeMap<&'static str, f64>);

impl Seconds {
    /// Runs a part and notes its duration.
    pub async fn time<T>(
        &mut self,
        part: &'static str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        let done = work.await;
        self.0.insert(part, started.elapsed().as_secs_f64());
        done
    }
}

/// The content of reports/demo.json.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    #[serde(flatten)]
    counts: Counts,
    mean_cosine: BTreeMap<&'static str, f64>,
    interval: BTreeMap<&'static str, [f64; 2]>,
    calibration: Option<CalibrationScores>,
    seconds: BTreeMap<&'static str, f64>,
    #[serde(skip)]
    scores: Scores,
    #[serde(skip)]
    examples: Vec<Example>,
}

impl DemoReport {
    pub fn new(counts: Counts, scores: Scores, examples: Vec<Example>, seconds: Seconds) -> Self {
        Self {
            counts,
            mean_cosine: scores.mean_cosine.clone(),
            interval: scores.interval.clone(),
            calibration: scores.calibration.clone(),
            seconds: seconds.0,
            scores,
            examples,
        }
    }

    /// Adds the total time.
    pub fn finished(mut self, elapsed: Duration) -> Self {
        self.seconds.insert("total", elapsed.as_secs_f64());
        self
    }

    pub fn print(&self) -> anyhow::Result<()> {
        let counts = &self.counts;
        output::line(format!(
            "\n{} prompts indexed, {} pictures generated ({} to train on, {} to validate on, {} held out)\n\
             {} pictures published, {} predicted, {} dead letters, {} lost",
            counts.prompts_indexed,
            counts.images_generated,
            counts.train,
            counts.validation,
            counts.held_out,
            counts.published,
            counts.predicted,
            counts.dead_letters,
            counts.lost
        ))?;
        output::line(format!(
            "\ncosine to the true prompt's embedding, {} held-out pictures",
            self.scores.pictures
        ))?;
        output::line(table(&self.scores))?;
        if let Some(calibration) = &self.calibration {
            output::line(format!(
                "expected_cosine is {:.4} off on average over tenths of the pictures ({:.4} a picture), rank correlation {:.2}",
                calibration.mean_abs_error,
                calibration.mean_abs_error_per_picture,
                calibration.rank_correlation
            ))?;
        }
        if let Some(folder) = self.examples.first().and_then(|one| one.file.parent()) {
            output::line(format!("\nsome of them, kept in {}", folder.display()))?;
            output::line(examples::table(&self.examples))?;
        }
        output::line(format!("{:.0} s in all", self.seconds["total"]))
    }

    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{} cannot be created", folder.display()))?;
        }
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("{} cannot be written", path.display()))?;
        eprintln!("report written to {}", path.display());
        Ok(())
    }

    /// Checks what must hold on any machine. The scores are left to the reader.
    pub fn check(&self) -> anyhow::Result<()> {
        let counts = &self.counts;
        if counts.lost > 0 {
            bail!("{} published pictures were lost; that is a defect, please report it", counts.lost);
        }
        Ok(())
    }
}
