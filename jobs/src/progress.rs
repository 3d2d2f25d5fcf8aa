//! The progress of a long job on stderr: a bar on a terminal, otherwise a log line every few
//! seconds.

use parking_lot::{Mutex, MutexGuard};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The log target of a job's progress. A filter that admits it at level info shows the progress.
pub const PROGRESS_TARGET: &str = "unprompt_jobs::progress";

const LOG_EVERY: Duration = Duration::from_secs(5);
const WITH_TOTAL: &str = "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} eta {eta}";
const WITHOUT_TOTAL: &str = "{spinner} {msg} {human_pos} {per_sec}";

/// The progress of a job, which threads may share.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    label: String,
    is_terminal: bool,
    logged: Mutex<Instant>,
    counted: Mutex<Counted>,
}

/// The start of the rates, and the note next to the position.
#[derive(Debug)]
struct Counted {
    /// None while the items of an earlier run are skipped.
    from: Option<Begin>,
    note: Option<String>,
}

/// The start of the rates.
#[derive(Debug)]
struct Begin {
    items: u64,
    made: u64,
    since: Instant,
}

impl Begin {
    fn now(items: u64, made: u64) -> Self {
        Self { items, made, since: Instant::now() }
    }

    fn per_s(&self, count: u64, before: u64) -> f64 {
        count.saturating_sub(before) as f64 / self.since.elapsed().as_secs_f64().max(1e-9)
    }
}

impl Progress {
    /// Starts a job of `total` items; None if the total is unknown.
    pub fn new(label: impl Into<String>, total: Option<u64>) -> Self {
        let label = label.into();
        let is_terminal = std::io::stderr().is_terminal();
        let bar = match (is_terminal, total) {
            (false, _) => ProgressBar::hidden(),
            (true, Some(total)) => ProgressBar::new(total).with_style(style(WITH_TOTAL)),
            (true, None) => ProgressBar::new_spinner().with_style(style(WITHOUT_TOTAL)),
        };
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_message(label.clone());
        let counted = Counted { from: Some(Begin::now(0, 0)), note: None };
        Self { bar, label, is_terminal, logged: Mutex::new(Instant::now()), counted: Mutex::new(counted) }
    }

    /// Resumes the job of an earlier run, whose items are skipped first. Rates and the estimate
    /// start at the first item that this run counts.
    pub fn going_on(self) -> Self {
        self.counted().from = None;
        self
    }

    /// Shows `note` next to the position.
    pub fn note(&self, note: String) {
        self.bar.set_message(format!("{}: {note}", self.label));
        self.counted().note = Some(note);
    }

    /// Sets the total of items done to `count`, and shows how many of `what` this run made from
    /// them: for example prompts from bytes read. Both have a rate.
    pub fn set_made(&self, count: u64, made: u64, what: &str) {
        self.bar.set_position(count);
        self.begin(made);
        let per_s = self.counted().from.as_ref().map_or(0.0, |from| from.per_s(made, from.made));
        self.note(format!("{made} {what}, {per_s:.0}/s"));
        self.log_if_due();
    }

    /// Adds `count` items.
    pub fn inc(&self, count: u64) {
        self.bar.inc(count);
        self.begin(0);
        self.log_if_due();
    }

    /// Sets the total of items done.
    pub fn set(&self, count: u64) {
        self.bar.set_position(count);
        self.begin(0);
        self.log_if_due();
    }

    /// Starts the rates, unless they have started.
    fn begin(&self, made: u64) {
        let mut counted = self.counted();
        if counted.from.is_none() {
            counted.from = Some(Begin::now(self.bar.position(), made));
            self.bar.reset_eta();
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock()
    }

    /// Returns the number of items done so far.
    pub fn position(&self) -> u64 {
        self.bar.position()
    }

    /// Ends the job: removes the bar, and logs the number of items and the time taken.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        let took_s = self.bar.elapsed().as_secs_f64();
        tracing::info!(job = self.label, done = self.bar.position(), took_s = round(took_s), "finished");
    }

    fn log_if_due(&self) {
        if self.is_terminal {
            return;
        }
        // The thread that holds the lock is already logging.
        let Some(mut logged) = self.logged.try_lock() else { return };
        if logged.elapsed() < LOG_EVERY {
            return;
        }
        *logged = Instant::now();
        self.log();
    }

    fn log(&self) {
        let (per_s, note) = {
            let counted = self.counted();
            (self.per_s(&counted), counted.note.clone())
        };
        let (done, total) = (self.bar.position(), self.bar.length());
        // Before the first item there is no estimate.
        let left = total.filter(|_| per_s > 0.0).map(|total| total.saturating_sub(done) as f64);
        let left_s = left.map(|left| round(left / per_s));
        let per_s = round(per_s);
        tracing::info!(job = self.label, done, total, per_s, left_s, note, "under way");
    }

    fn per_s(&self, counted: &Counted) -> f64 {
        counted.from.as_ref().map_or(0.0, |from| from.per_s(self.bar.position(), from.items))
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(progress: &Progress) -> f64 {
        progress.per_s(&progress.counted())
    }

    #[test]
    fn rates_exclude_the_items_of_an_earlier_run() {
        let progress = Progress::new("counting", Some(1_000)).going_on();
        assert_eq!(rate(&progress), 0.0, "nothing is known yet");
        progress.set_made(900, 50, "words");
        assert_eq!(rate(&progress), 0.0, "the first ones may have been read through");
        std::thread::sleep(Duration::from_millis(20));
        progress.set_made(910, 55, "words");
        let rate = rate(&progress);
        assert!(rate > 0.0 && rate <= 10.0 / 0.02, "{rate}");
        let note = progress.counted().note.clone().unwrap();
        let words: f64 =
            note.strip_prefix("55 words, ").unwrap().strip_suffix("/s").unwrap().parse().unwrap();
        assert!(words > 0.0 && words <= 5.0 / 0.02, "{note}");
    }

    #[test]
    fn inc_starts_the_rate_of_a_resumed_job() {
        let progress = Progress::new("counting", None).going_on();
        progress.inc(900);
        assert_eq!(rate(&progress), 0.0);
        progress.inc(10);
        assert!(rate(&progress) > 0.0);
    }

    #[test]
    fn the_rate_of_a_new_job_counts_from_its_start() {
        let progress = Progress::new("counting", Some(1_000));
        std::thread::sleep(Duration::from_millis(20));
        progress.set_made(10, 5, "words");
        let rate = rate(&progress);
        assert!(rate > 0.0 && rate <= 10.0 / 0.02, "{rate}");
    }
}
