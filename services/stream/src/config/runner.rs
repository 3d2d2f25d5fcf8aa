//! How a runner batches, bounds and retries, with overrides for each service.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::Profile;

/// What a run promises about its outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Delivery {
    /// Exactly once on Apache Kafka, at least once on the embedded broker, which has no transactions.
    #[default]
    Auto,
    /// Outputs and dead letters are acknowledged before the offset is committed; repetition is harmless by
    /// the records' identities.
    AtLeastOnce,
    /// Outputs, dead letters and offsets become visible together, in a transaction, to readers of committed records.
    ExactlyOnce,
}

impl Delivery {
    /// Whether it means transactions, on a broker of this profile.
    pub fn is_exactly_once(self, profile: Profile) -> bool {
        match self {
            Self::Auto => profile == Profile::Kafka,
            Self::AtLeastOnce => false,
            Self::ExactlyOnce => true,
        }
    }
}

/// The bounds of one runner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerConfig {
    /// Records in a batch, at most.
    pub batch_records: usize,
    /// Bytes in a batch, at most, unless one record alone is larger.
    pub batch_bytes: usize,
    /// How long a record waits for its batch to fill, at most.
    pub batch_time_ms: u64,
    /// Bytes of records held at once: taken, with the stage, or awaiting acknowledgement, and outputs that are not written yet; one
    /// record, and what the stage makes of the batches in its hand, may go over it. Kafka's client fetches half as much ahead, and
    /// one more answer of every broker, which is no larger than that or else one record.
    pub bytes_in_flight: usize,
    /// Time between commits, at least.
    pub commit_interval_ms: u64,
    /// Delay before the first retry of a batch that failed as transient; it doubles from there.
    pub retry_initial_ms: u64,
    /// Delay between retries, at most.
    pub retry_max_ms: u64,
    /// How long revoked partitions may take to finish what is in flight before it is dropped.
    pub revoke_drain_ms: u64,
    /// How long a graceful stop may take to finish, flush and commit.
    pub stop_timeout_ms: u64,
    pub delivery: Delivery,
    /// Records written in a transaction, at most, unless one batch alone gives more.
    pub transaction_records: usize,
    /// Bytes written in a transaction, at most, unless one batch alone gives more.
    pub transaction_bytes: usize,
    /// After this the broker aborts a transaction; for so long may a killed service hold up readers of committed records.
    pub transaction_timeout_ms: u64,
    /// The records whose fate is looked at for a flood of dead letters: the last so many.
    pub dead_letter_window: usize,
    /// A flood is at least so many dead letters among them,
    pub dead_letter_count: usize,
    /// and at least this share of them; above 1 nothing is a flood.
    pub dead_letter_ratio: f64,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self {
            batch_records: 64,
            batch_bytes: 32 << 20,
            batch_time_ms: 1,
            bytes_in_flight: 96 << 20,
            commit_interval_ms: 200,
            retry_initial_ms: 100,
            retry_max_ms: 10_000,
            revoke_drain_ms: 5_000,
            stop_timeout_ms: 30_000,
            delivery: Delivery::Auto,
            transaction_records: 10_000,
            transaction_bytes: 32 << 20,
            transaction_timeout_ms: 15_000,
            dead_letter_window: 1_000,
            dead_letter_count: 200,
            dead_letter_ratio: 0.5,
        }
    }
}

macro_rules! overrides {
    ($($field:ident: $kind:ty),* $(,)?) => {
        /// Any of [`RunnerConfig`]'s bounds; what is absent stays as it is.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RunnerOverrides {
            $(#[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)*
        }

        impl RunnerOverrides {
            fn over(&self, base: RunnerConfig) -> RunnerConfig {
                RunnerConfig { $($field: self.$field.unwrap_or(base.$field)),* }
            }
        }

        /// `[runner]`: the bounds of every service, and in `[runner.services.<name>]` those of one.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RunnerSection {
            $(#[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)*
            /// By service name, such as `generator`.
            #[serde(default)]
            pub services: BTreeMap<String, RunnerOverrides>,
        }

        impl RunnerSection {
            fn shared(&self) -> RunnerOverrides {
                RunnerOverrides { $($field: self.$field),* }
            }
        }
    };
}

overrides! {
    batch_records: usize,
    batch_bytes: usize,
    batch_time_ms: u64,
    bytes_in_flight: usize,
    commit_interval_ms: u64,
    retry_initial_ms: u64,
    retry_max_ms: u64,
    revoke_drain_ms: u64,
    stop_timeout_ms: u64,
    delivery: Delivery,
    transaction_records: usize,
    transaction_bytes: usize,
    transaction_timeout_ms: u64,
    dead_letter_window: usize,
    dead_letter_count: usize,
    dead_letter_ratio: f64,
}

/// Of a count or a size that must not be zero.
const SOME: RangeInclusive<u64> = 1..=u64::MAX;
/// A time of a day is as good as for ever, and can still be added to the clock.
const DAY_MS: u64 = 86_400_000;
/// What librdkafka takes of a transaction's timeout, up to [`DAY_MS`].
const TRANSACTION_MS: RangeInclusive<u64> = 1_000..=DAY_MS;

impl RunnerOverrides {
    /// What is given of the bounds, by name, and what each may be.
    fn ranges(&self) -> [(&'static str, Option<u64>, RangeInclusive<u64>); 13] {
        let size = |given: Option<usize>| given.map(|size| size as u64);
        let (time, delay) = (0..=DAY_MS, 1..=DAY_MS);
        [
            ("batch_records", size(self.batch_records), SOME),
            ("batch_bytes", size(self.batch_bytes), SOME),
            ("batch_time_ms", self.batch_time_ms, time.clone()),
            ("bytes_in_flight", size(self.bytes_in_flight), SOME),
            ("commit_interval_ms", self.commit_interval_ms, time.clone()),
            ("retry_initial_ms", self.retry_initial_ms, delay.clone()),
            ("retry_max_ms", self.retry_max_ms, delay),
            ("revoke_drain_ms", self.revoke_drain_ms, time.clone()),
            ("stop_timeout_ms", self.stop_timeout_ms, time),
            ("transaction_records", size(self.transaction_records), SOME),
            ("transaction_bytes", size(self.transaction_bytes), SOME),
            ("transaction_timeout_ms", self.transaction_timeout_ms, TRANSACTION_MS),
            ("dead_letter_window", size(self.dead_letter_window), SOME),
        ]
    }

    /// The first bound that is out of its range: its key, and what it may be.
    fn check(&self, section: &str) -> Result<(), (String, String)> {
        for (name, given, range) in self.ranges() {
            let Some(given) = given.filter(|given| !range.contains(given)) else { continue };
            let allowed = match *range.end() {
                u64::MAX => format!("{} or more", range.start()),
                most => format!("{} to {most}", range.start()),
            };
            return Err((format!("{section}.{name}"), format!("{given} is out of range, give {allowed},")));
        }
        match self.dead_letter_ratio.filter(|ratio| ratio.is_nan() || *ratio < 0.0) {
            Some(ratio) => Err((
                format!("{section}.dead_letter_ratio"),
                format!("{ratio} is out of range, give 0 or more,"),
            )),
            None => Ok(()),
        }
    }
}

impl RunnerSection {
    /// The first bound that is out of its range: its key, and what it may be.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        self.shared().check("runner")?;
        self.services.iter().try_for_each(|(name, own)| own.check(&format!("runner.services.{name}")))
    }

    /// The bounds of `service`: its own where given, then those of all, then the defaults.
    pub fn for_service(&self, service: &str) -> RunnerConfig {
        let shared = self.shared().over(RunnerConfig::default());
        match self.services.get(service) {
            Some(own) => own.over(shared),
            None => shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_own_bound_wins_over_the_shared_one_and_that_over_the_default() {
        let section = RunnerSection {
            batch_records: Some(10),
            batch_bytes: Some(1000),
            services: [(
                "generator".into(),
                RunnerOverrides { batch_records: Some(2), ..Default::default() },
            )]
            .into(),
            ..Default::default()
        };
        let generator = section.for_service("generator");
        assert_eq!((generator.batch_records, generator.batch_bytes), (2, 1000));
        let indexer = section.for_service("indexer");
        assert_eq!(
            (indexer.batch_records, indexer.batch_time_ms),
            (10, RunnerConfig::default().batch_time_ms)
        );
    }
}
