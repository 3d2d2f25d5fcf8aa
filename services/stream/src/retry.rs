//! Exponential backoff with equal jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015).

use std::time::Duration;

use rand::Rng;

/// The delays between attempts: each is random, up to a bound that doubles from `initial` to `max`.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, tries: 0 }
    }

    /// Returns how often [`Backoff::next`] was called.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    fn bound(&self) -> Duration {
        let factor = 1u32.checked_shl(self.tries).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// Returns the delay before the next attempt: at least half of its bound, so that a retry
    /// is never immediate.
    pub(crate) fn next(&mut self) -> Duration {
        let bound = self.bound();
        self.tries = self.tries.saturating_add(1);
        bound.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// [`Backoff::next`] under a public name, which cannot be mistaken for an iterator's method.
    pub fn next_delay(&mut self) -> Duration {
        self.next()
    }

    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(1000));
        for bound_ms in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next().as_millis();
            assert!((bound_ms / 2..=bound_ms).contains(&delay), "{delay} ms for a bound of {bound_ms} ms");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }

    #[test]
    fn a_long_outage_never_overflows() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        for _ in 0..100 {
            assert!(backoff.next() <= Duration::from_secs(10));
        }
    }
}
