//! When a picture that temporarily cannot be fetched is given up.
//!
//! The rule: **a picture that fails in every attempt is given up if its place answers a request for
//! something else and the picture then fails once more; if its place does not answer, the batch
//! waits.** So an outage puts nothing into the dead letters, and one broken object does not hold up
//! a topic. "Its place" is where it failed: a redirect may have led there. "Something else" is the
//! picture last fetched from there, or, if there is none, the allowed prefix itself.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use unprompt_stream::Backoff;

use super::failure::{FetchFailure, Outage, codes};
use super::http::FetchedImage;
use super::location::Location;
use super::settings::Settings;
use super::sources::Sources;

/// Fetches with retries, and distinguishes an outage from a faulty picture.
#[derive(Debug)]
pub struct Patience {
    sources: Sources,
    /// By place: the last picture fetched from there, or through a redirect from there.
    known_good: Vec<Mutex<Option<Location>>>,
    attempts: u32,
    timeout: Duration,
    backoff: Backoff,
}

impl Patience {
    pub fn new(sources: Sources, settings: &Settings) -> Self {
        let known_good = sources.policy().places().iter().map(|_| Mutex::default()).collect();
        let delay = Duration::from_millis;
        Self {
            sources,
            known_good,
            attempts: settings.attempts,
            timeout: delay(settings.timeout_ms),
            backoff: Backoff::new(delay(settings.retry_initial_ms), delay(settings.retry_max_ms)),
        }
    }

    /// Fetches a picture. Of the temporary failures only outages of a whole place are returned as
    /// such.
    pub async fn fetch(&self, location: &Location) -> Result<Vec<u8>, FetchFailure> {
        let outage = match self.tries(location).await {
            Err(FetchFailure::Outage(outage)) => outage,
            settled => return self.noted(location, settled),
        };
        if !self.place_answers(location, &outage).await {
            return Err(FetchFailure::Outage(outage));
        }
        // The place may have been unavailable until now.
        match self.sources.fetch(location, self.deadline()).await {
            Err(FetchFailure::Outage(last)) if self.is_elsewhere(&last, &outage) => {
                Err(FetchFailure::Outage(last))
            }
            Err(FetchFailure::Outage(last)) => Err(given_up(&last, self.attempts)),
            settled => self.noted(location, settled),
        }
    }

    /// Returns whether it failed in a place other than the one that was probed.
    fn is_elsewhere(&self, outage: &Outage, asked: &Outage) -> bool {
        let place = |outage: &Outage| self.sources.policy().place_of(&outage.at).ok();
        place(outage) != place(asked)
    }

    /// Fetches with retries; all attempts share the timeout of one picture.
    async fn tries(&self, location: &Location) -> Result<FetchedImage, FetchFailure> {
        let (deadline, mut backoff) = (self.deadline(), self.backoff.clone());
        loop {
            let tried = self.sources.fetch(location, deadline).await;
            if !matches!(tried, Err(FetchFailure::Outage(_))) {
                return tried;
            }
            let delay = backoff.next_delay();
            if backoff.tries() >= self.attempts || Instant::now() + delay >= deadline {
                return tried;
            }
            sleep(delay).await;
        }
    }

    fn noted(
        &self,
        location: &Location,
        fetched: Result<FetchedImage, FetchFailure>,
    ) -> Result<Vec<u8>, FetchFailure> {
        let FetchedImage { bytes, at } = fetched?;
        // The target of a redirect may soon expire, so the original URI is kept for both places.
        for known in [location, &at] {
            let place = self.sources.policy().place_of(known)?;
            *self.known_good[place].lock() = Some(location.clone());
        }
        Ok(bytes)
    }

    /// Returns whether the place of the failure answers; if it is behind a redirect, the first
    /// place tells nothing about it.
    async fn place_answers(&self, location: &Location, outage: &Outage) -> bool {
        let Ok(place) = self.sources.policy().place_of(&outage.at) else { return false };
        let known_good = self.known_good[place].lock().clone();
        match known_good.filter(|good| good != location) {
            Some(good) => {
                !matches!(self.sources.fetch(&good, self.deadline()).await, Err(FetchFailure::Outage(_)))
            }
            None => self.sources.answers(place, self.deadline()).await,
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}

fn given_up(outage: &Outage, attempts: u32) -> FetchFailure {
    FetchFailure::refused(
        codes::UNAVAILABLE,
        format!(
            "{}; all {} attempts failed, and its place answers other requests: repair the picture there, and replay the record",
            outage.reason,
            attempts + 1
        ),
    )
}
