//! Counts the answers on the output topics as they arrive: retention deletes them before the end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use serde::Serialize;
use tokio::task::JoinSet;
use unprompt_schemas::topics::{Prefix, Topic};

use crate::feed::NUMBER_HEADER;

/// The time from publication to the answer, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

#[derive(Debug, Default)]
struct Counts {
    /// The publications that are not answered yet, with their times since the start.
    waiting: HashMap<usize, Duration>,
    predicted: usize,
    dead: usize,
    /// Answers to records that already had one.
    repeated: usize,
    /// The arrival since the start, and the latency.
    latencies: Vec<(Duration, Duration)>,
}

impl Counts {
    /// Takes the answer to a record, which arrives this long after the start.
    fn take(&mut self, number: usize, is_dead: bool, at: Duration) {
        let Some(published) = self.waiting.remove(&number) else {
            self.repeated += 1;
            return;
        };
        self.predicted += usize::from(!is_dead);
        self.dead += usize::from(is_dead);
        self.latencies.push((at, at.saturating_sub(published)));
    }
}

/// The number of a record of this run; generated pictures have none.
fn number_of(message: &BorrowedMessage<'_>) -> Option<usize> {
    let header = message.headers()?.iter().find(|header| header.key == NUMBER_HEADER)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}

/// Counts the answers to the numbered records of a run.
#[derive(Clone, Debug)]
pub struct Arrivals {
    counts: Arc<Mutex<Counts>>,
    started: Instant,
    /// The task that reads; it ends with the last clone.
    _reader: Arc<JoinSet<()>>,
}

/// The answers so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub predicted: usize,
    pub dead: usize,
    pub repeated: usize,
    pub waiting: usize,
}

impl Arrivals {
    /// Starts to read the topics of answers, from their beginning.
    pub fn read(brokers: &str, prefix: &Prefix, started: Instant) -> anyhow::Result<Self> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "soak-arrivals")
            .set("client.id", "soak")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()?;
        let (predictions, dead_letters) = (prefix.name(Topic::Predictions), prefix.name(Topic::DeadLetters));
        consumer.subscribe(&[&predictions, &dead_letters])?;
        let counts = Arc::<Mutex<Counts>>::default();
        let (taking, mut reader) = (counts.clone(), JoinSet::new());
        reader.spawn(async move {
            loop {
                match consumer.recv().await {
                    Ok(message) => {
                        let Some(number) = number_of(&message) else { continue };
                        let mut counts = taking.lock().unwrap_or_else(PoisonError::into_inner);
                        counts.take(number, message.topic() == dead_letters, started.elapsed());
                    }
                    Err(error) => eprintln!("  ! the answers cannot be read: {error}"),
                }
            }
        });
        Ok(Self { counts, started, _reader: Arc::new(reader) })
    }

    /// Starts to wait for the answer to a record that is published next.
    pub fn expect(&self, number: usize) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.waiting.insert(number, self.started.elapsed());
    }

    pub fn so_far(&self) -> Arrived {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { predicted, dead, repeated, .. } = *counts;
        Arrived { predicted, dead, repeated, waiting: counts.waiting.len() }
    }

    /// The latency of the answers that arrived in this part of the run.
    pub fn latency(&self, from: Duration, to: Duration) -> Option<Latency> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let within = counts.latencies.iter().filter(|(at, _)| (from..to).contains(at));
        let mut latencies: Vec<f64> = within.map(|(_, latency)| latency.as_secs_f64() * 1e3).collect();
        latencies.sort_by(f64::total_cmp);
        let quantile = |q: f64| latencies.get((latencies.len() as f64 * q) as usize).copied();
        Some(Latency { p50_ms: quantile(0.5)?, p99_ms: quantile(0.99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_answer_counts_as_repeated_and_a_missing_one_as_waiting() {
        let mut counts = Counts::default();
        let second = Duration::from_secs;
        counts.waiting.extend([(1, second(1)), (2, second(2)), (3, second(3))]);
        counts.take(1, false, second(4));
        counts.take(2, true, second(5));
        counts.take(1, false, second(6));
        assert_eq!((counts.predicted, counts.dead, counts.repeated, counts.waiting.len()), (1, 1, 1, 1));
        assert_eq!(counts.latencies, [(second(4), second(3)), (second(5), second(3))]);
    }
}
