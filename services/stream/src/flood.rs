//! Distinguishes a flood of dead letters from a few bad records. A pure type.
//!
//! A wrong model or schema must not drain a topic into the dead letters.

use std::collections::VecDeque;

use crate::config::RunnerConfig;

/// The outcomes of the last records.
#[derive(Debug)]
pub(crate) struct Flood {
    window: usize,
    count: usize,
    ratio: f64,
    /// The last records, oldest first; true for a rejected one.
    last: VecDeque<bool>,
    rejected: usize,
}

impl Flood {
    pub fn new(config: &RunnerConfig) -> Self {
        Self {
            window: config.dead_letter_window.max(1),
            count: config.dead_letter_count,
            ratio: config.dead_letter_ratio,
            last: VecDeque::new(),
            rejected: 0,
        }
    }

    /// Records further outcomes. If the recent ones are a flood, returns how many records were
    /// rejected and how many were considered.
    pub fn note(&mut self, rejected: impl IntoIterator<Item = bool>) -> Option<(usize, usize)> {
        for rejected in rejected {
            self.last.push_back(rejected);
            self.rejected += usize::from(rejected);
            if self.last.len() > self.window {
                self.rejected -= usize::from(self.last.pop_front() == Some(true));
            }
        }
        let share = self.rejected as f64 / self.last.len().max(1) as f64;
        (self.rejected > 0 && self.rejected >= self.count && share >= self.ratio)
            .then_some((self.rejected, self.last.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flood(window: usize, count: usize, ratio: f64) -> Flood {
        Flood::new(&RunnerConfig {
            dead_letter_window: window,
            dead_letter_count: count,
            dead_letter_ratio: ratio,
            ..RunnerConfig::default()
        })
    }

    fn some_of(rejected: usize, of: usize) -> impl Iterator<Item = bool> {
        (0..of).map(move |at| at < rejected)
    }

    #[test]
    fn a_few_bad_records_are_no_flood_however_large_their_share() {
        let mut flood = flood(100, 10, 0.5);
        assert_eq!(flood.note(some_of(9, 9)), None);
        assert_eq!(flood.note(some_of(1, 1)), Some((10, 10)));
    }

    #[test]
    fn many_bad_records_are_no_flood_while_most_are_good() {
        let mut flood = flood(100, 10, 0.5);
        for _ in 0..50 {
            assert_eq!(flood.note(some_of(4, 10)), None);
        }
        assert_eq!(flood.note(some_of(10, 10)), None, "46 of the last 100");
        assert_eq!(flood.note(some_of(10, 10)), Some((52, 100)));
    }

    #[test]
    fn outcomes_outside_the_window_do_not_count() {
        let mut flood = flood(20, 5, 0.5);
        assert_eq!(flood.note(some_of(4, 4)), None);
        assert_eq!(flood.note(some_of(0, 20)), None);
        assert_eq!(flood.note(some_of(4, 4)), None);
    }

    #[test]
    fn a_ratio_above_one_lets_everything_through() {
        assert_eq!(flood(10, 1, 1.1).note(some_of(10, 10)), None);
    }
}
