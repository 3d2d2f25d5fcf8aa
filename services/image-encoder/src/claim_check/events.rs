//! Events of fetching: one type per event, which emits its log line and its metrics together.

use std::time::Duration;

use metrics::{counter, histogram};

use super::failure::FetchFailure;
use super::location::Location;

mod names {
    pub const FETCHES: &str = "unprompt_claim_checks_total";
    pub const BYTES: &str = "unprompt_claim_check_bytes_total";
    pub const SECONDS: &str = "unprompt_claim_check_seconds";
}

/// A fetch has ended, successfully or after all attempts.
pub struct Fetched<'a> {
    pub location: &'a Location,
    pub result: &'a Result<Vec<u8>, FetchFailure>,
    pub took: Duration,
}

impl Fetched<'_> {
    pub fn emit(self) {
        let (outcome, bytes) = match self.result {
            Ok(bytes) => ("fetched", bytes.len()),
            Err(FetchFailure::Refused(rejection)) => (rejection.code, 0),
            Err(FetchFailure::Outage(_)) => ("outage", 0),
            Err(FetchFailure::Fatal(_)) => ("fatal", 0),
        };
        counter!(names::FETCHES, "outcome" => outcome).increment(1);
        counter!(names::BYTES).increment(bytes as u64);
        histogram!(names::SECONDS, "outcome" => outcome).record(self.took.as_secs_f64());
        tracing::debug!(uri = %self.location, outcome, bytes, took_ms = self.took.as_millis() as u64, "claim check");
    }
}
