//! How far a long job is: a bar on a terminal, elsewhere a log line now and then. To stderr.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const LOG_EVERY: Duration = Duration::from_secs(5);
const WITH_TOTAL: &str = "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} eta {eta}";
const WITHOUT_TOTAL: &str = "{spinner} {msg} {human_pos} {per_sec}";

/// A job's progress. It may be shared between threads.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    label: String,
    is_terminal: bool,
    logged: Mutex<Instant>,
    counted: Mutex<Counted>,
}

/// What the rate is taken of, and what is said beside it.
#[derive(Debug)]
struct Counted {
    from: u64,
    since: Instant,
    note: Option<String>,
}

impl Progress {
    /// Begins a job of `total` items, or of who knows how many.
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
        let counted = Counted { from: 0, since: Instant::now(), note: None };
        Self { bar, label, is_terminal, logged: Mutex::new(Instant::now()), counted: Mutex::new(counted) }
    }

    /// An earlier run did `count` items: rate and estimate are of what comes from now on.
    pub fn go_on_after(&self, count: u64) {
        self.bar.set_position(count);
        self.bar.reset_eta();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        (counted.from, counted.since) = (count, Instant::now());
    }

    /// Says something beside the position, such as how many there are of what the total is not known of.
    pub fn note(&self, note: String) {
        self.bar.set_message(format!("{}: {note}", self.label));
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).note = Some(note);
    }

    /// `count` more items are done.
    pub fn inc(&self, count: u64) {
        self.bar.inc(count);
        self.log_if_due();
    }

    /// `count` items are done in all.
    pub fn set(&self, count: u64) {
        self.bar.set_position(count);
        self.log_if_due();
    }

    /// The items done so far.
    pub fn position(&self) -> u64 {
        self.bar.position()
    }

    /// Ends the job: the bar goes, and a last line says how much there was.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        let took_s = self.bar.elapsed().as_secs_f64();
        tracing::info!(job = self.label, done = self.bar.position(), took_s = round(took_s), "finished");
    }

    fn log_if_due(&self) {
        if self.is_terminal {
            return;
        }
        // Whoever holds the lock is logging already.
        let Ok(mut logged) = self.logged.try_lock() else { return };
        if logged.elapsed() < LOG_EVERY {
            return;
        }
        *logged = Instant::now();
        let (per_s, note) = {
            let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            (self.per_s(&counted), counted.note.clone())
        };
        match self.bar.length() {
            Some(total) => {
                let left = total.saturating_sub(self.bar.position()) as f64;
                // Before the first item there is no estimate to give.
                let left_s = (per_s > 0.0).then(|| round(left / per_s));
                let per_s = round(per_s);
                tracing::info!(
                    job = self.label,
                    done = self.bar.position(),
                    total,
                    per_s,
                    left_s,
                    note,
                    "under way"
                );
            }
            None => tracing::info!(
                job = self.label,
                done = self.bar.position(),
                per_s = round(per_s),
                note,
                "under way"
            ),
        }
    }

    fn per_s(&self, counted: &Counted) -> f64 {
        self.bar.position().saturating_sub(counted.from) as f64 / counted.since.elapsed().as_secs_f64()
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

    #[test]
    fn the_rate_leaves_out_what_an_earlier_run_did() {
        let progress = Progress::new("counting", Some(1_000));
        progress.go_on_after(900);
        std::thread::sleep(Duration::from_millis(20));
        progress.set(910);
        let rate = progress.per_s(&progress.counted.lock().unwrap());
        assert!(rate > 0.0 && rate <= 10.0 / 0.02, "{rate}");
    }
}
