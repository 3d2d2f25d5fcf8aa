//! The size of the next transaction. A pure type.
//!
//! A transaction that does not fit into its time is aborted, and would never fit if it were tried
//! again as it is: on a slow link, or with a quota on the broker. So the next one is half as large.
//! Transactions start small and grow while they are quick.

use std::time::Duration;

use crate::config::RunnerConfig;

const FIRST_BYTES: usize = 4 << 20;
const LEAST_BYTES: usize = 64 << 10;

/// The bytes that the next transaction may have.
#[derive(Debug)]
pub(super) struct TransactionSize {
    bytes: usize,
    max_bytes: usize,
    /// A transaction that took less may be twice as large.
    quick: Duration,
}

impl TransactionSize {
    pub fn new(config: &RunnerConfig) -> Self {
        let max_bytes = config.transaction_bytes;
        let quick = Duration::from_millis(config.transaction_timeout_ms) / 8;
        Self { bytes: FIRST_BYTES.min(max_bytes), max_bytes, quick }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records the duration of a committed transaction.
    pub fn committed(&mut self, took: Duration) {
        if took < self.quick {
            self.bytes = self.bytes.saturating_mul(2).min(self.max_bytes);
        }
    }

    /// Records that a transaction of this many bytes did not fit into its time.
    pub fn late(&mut self, bytes: usize) {
        let least = LEAST_BYTES.min(self.max_bytes);
        self.bytes = (self.bytes.min(bytes) / 2).max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(10);
    const SLOW: Duration = Duration::from_secs(5);

    fn size(transaction_bytes: usize) -> TransactionSize {
        TransactionSize::new(&RunnerConfig { transaction_bytes, ..RunnerConfig::default() })
    }

    #[test]
    fn the_size_grows_to_its_limit_while_transactions_are_quick() {
        let mut size = size(32 << 20);
        (0..10).for_each(|_| size.committed(QUICK));
        assert_eq!(size.bytes(), 32 << 20);
    }

    #[test]
    fn the_size_is_halved_after_each_late_transaction_down_to_a_minimum() {
        let mut size = size(32 << 20);
        size.late(9 << 20);
        assert_eq!(size.bytes(), 2 << 20);
        size.late(1 << 20);
        assert_eq!(size.bytes(), 1 << 19);
        size.committed(SLOW);
        assert_eq!(size.bytes(), 1 << 19);
        (0..100).for_each(|_| size.late(usize::MAX));
        assert_eq!(size.bytes(), LEAST_BYTES);
    }

    #[test]
    fn a_small_limit_holds() {
        let mut size = size(1000);
        assert_eq!(size.bytes(), 1000);
        size.late(1000);
        size.committed(QUICK);
        assert_eq!(size.bytes(), 1000);
    }
}
