//! The bounds, batches and retries of a runner, with overrides for each service.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, Profile};
use crate::retry::Backoff;

/// The delivery guarantee of a run's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Delivery {
    /// Exactly once on Apache Kafka, at least once on the embedded broker, which has no
    /// transactions.
    #[default]
    Auto,
    /// Outputs and dead letters are acknowledged before the offset is committed. The records'
    /// identities make repetition harmless.
    AtLeastOnce,
    /// Outputs, dead letters and offsets become visible together, in a transaction, to readers of
    /// committed records.
    ExactlyOnce,
}

impl Delivery {
    /// Returns whether it uses transactions on a broker of this profile.
    pub fn is_exactly_once(self, profile: Profile) -> bool {
        match self {
            Self::Auto => profile == Profile::Kafka,
            Self::AtLeastOnce => false,
            Self::ExactlyOnce => true,
        }
    }
}

/// The policy for a group whose outputs exist although the broker has lost its offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LostOffsets {
    /// It stops, because it is not known which records it has processed.
    #[default]
    Stop,
    /// It processes all retained records, and writes their outputs again.
    Earliest,
    /// It processes only records that are published from now on.
    Latest,
}

/// Defines [`RunnerConfig`], its overrides and its checks from one list: documentation, name, type,
/// default, check.
macro_rules! bounds {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $default:expr, $check:ident;)*) => {
        /// The bounds of one runner.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RunnerConfig {
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Default for RunnerConfig {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }

        /// Any of [`RunnerConfig`]'s bounds; an absent one keeps its value.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RunnerOverrides {
            $(#[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)*
        }

        impl RunnerOverrides {
            fn over(&self, base: RunnerConfig) -> RunnerConfig {
                RunnerConfig { $($field: self.$field.unwrap_or(base.$field)),* }
            }

            /// Finds the first bound that is out of its range.
            fn check(&self, section: &str) -> Result<(), Invalid> {
                $(if let Some(given) = self.$field {
                    $check(given).map_err(|what| Invalid::new(format!("{section}.{}", stringify!($field)), what))?;
                })*
                Ok(())
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

bounds! {
    /// The maximum number of records in a batch.
    batch_records: usize = 64, count;
    /// The maximum number of bytes in a batch, unless a single record is larger.
    batch_bytes: usize = 32 << 20, count;
    /// The longest time that a record waits for its batch to fill.
    batch_time_ms: u64 = 1, time_ms;
    /// Bytes of records held at once: taken, with the stage, or awaiting acknowledgement, and
    /// outputs that are not written yet. One record, and the stage's outputs for the batches that
    /// it has, may exceed it. Kafka's client prefetches half as much, plus one more response of
    /// every broker, which is no larger than that or holds a single record.
    bytes_in_flight: usize = 96 << 20, count;
    /// The minimum time between commits.
    commit_interval_ms: u64 = 200, time_ms;
    /// Delay before the first retry of a batch with a transient error; it doubles from there.
    retry_initial_ms: u64 = 100, delay_ms;
    /// The maximum delay between retries.
    retry_max_ms: u64 = 10_000, delay_ms;
    /// The time that revoked partitions have to finish their records in flight before these are
    /// dropped.
    revoke_drain_ms: u64 = 5_000, time_ms;
    /// The time that a graceful stop has to finish, flush and commit.
    stop_timeout_ms: u64 = 30_000, time_ms;
    /// The delivery guarantee of the outputs.
    delivery: Delivery = Delivery::Auto, any;
    /// The policy for a group whose outputs exist but whose offsets are lost.
    lost_offsets: LostOffsets = LostOffsets::Stop, any;
    /// The maximum number of records written in a transaction, unless a single batch gives more.
    transaction_records: usize = 10_000, count;
    /// The maximum number of bytes written in a transaction, unless a single batch gives more.
    transaction_bytes: usize = 32 << 20, count;
    /// The broker aborts a transaction after this time. A killed service may hold up readers of
    /// committed records for as long.
    transaction_timeout_ms: u64 = 15_000, transaction_ms;
    /// The number of recent records that are checked for a flood of dead letters.
    dead_letter_window: usize = 1_000, count;
    /// A flood has at least this number of dead letters among them, and at least the share
    /// `dead_letter_ratio`.
    dead_letter_count: usize = 200, any;
    /// A flood has at least this share of dead letters among them, and at least `dead_letter_count`
    /// of them; above 1 nothing is a flood.
    dead_letter_ratio: f64 = 0.5, ratio;
}

impl RunnerConfig {
    /// Returns the delays between attempts.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(Duration::from_millis(self.retry_initial_ms), Duration::from_millis(self.retry_max_ms))
    }
}

/// The upper bound of every time: practically forever, and still safe to add to the clock.
const DAY_MS: u64 = 86_400_000;

fn any<T>(_: T) -> Result<(), String> {
    Ok(())
}

/// A count or a size, which must not be zero.
fn count(given: usize) -> Result<(), String> {
    in_range(given, 1..=usize::MAX, "1 or more")
}

fn time_ms(given: u64) -> Result<(), String> {
    in_range(given, 0..=DAY_MS, format!("0 to {DAY_MS}"))
}

fn delay_ms(given: u64) -> Result<(), String> {
    in_range(given, 1..=DAY_MS, format!("1 to {DAY_MS}"))
}

/// Checks a transaction timeout: librdkafka's minimum, and [`DAY_MS`] at most.
fn transaction_ms(given: u64) -> Result<(), String> {
    in_range(given, 1_000..=DAY_MS, format!("1000 to {DAY_MS}"))
}

fn ratio(given: f64) -> Result<(), String> {
    in_range(given, 0.0..=f64::INFINITY, "0 or more")
}

fn in_range<T: PartialOrd + Display>(
    given: T,
    range: RangeInclusive<T>,
    allowed: impl Display,
) -> Result<(), String> {
    match range.contains(&given) {
        true => Ok(()),
        false => Err(format!("{given} is out of range (give {allowed})")),
    }
}

impl RunnerSection {
    /// Finds the first bound that is out of its range.
    ///
    /// # Errors
    /// The bound's key, and what it may be.
    pub fn check(&self) -> Result<(), Invalid> {
        self.shared().check("runner")?;
        self.services.iter().try_for_each(|(name, own)| own.check(&format!("runner.services.{name}")))
    }

    /// Returns the bounds of `service`: its own if given, then the shared ones, then the defaults.
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
    fn service_bounds_override_shared_bounds_which_override_defaults() {
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
