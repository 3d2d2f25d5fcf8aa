//! When a picture that cannot be fetched for now is given up.
//!
//! The rule: **a picture that fails in every try is given up when its place, asked for something else, answers, and it fails
//! once more after that; where its place does not answer, its batch waits.** So an outage puts nothing into the dead letters,
//! and one broken object does not hold up a topic. "Something else" is the picture that was last fetched from there, or, where
//! there was none, the allowed prefix itself.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use unprompt_stream::Backoff;
use unprompt_stream::config::ClaimCheck as Settings;

use super::failure::{Failure, Outage, codes};
use super::location::Location;
use super::sources::Sources;

/// Fetches with retries, and tells an outage from a picture that is at fault.
#[derive(Debug)]
pub struct Patience {
    sources: Sources,
    /// By place: the last picture that was fetched.
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

    /// The bytes of a picture; of the failures that may pass, only those of a whole place.
    pub async fn fetch(&self, location: &Location) -> Result<Vec<u8>, Failure> {
        let place = self.sources.policy().place_of(location)?;
        let outage = match self.tries(location).await {
            Err(Failure::Outage(outage)) => outage,
            settled => return self.noted(place, location, settled),
        };
        if !self.place_answers(place, location, &outage).await {
            return Err(Failure::Outage(outage));
        }
        // The place may have been away until now.
        match self.sources.fetch(location, self.deadline()).await {
            Err(Failure::Outage(outage)) => Err(given_up(&outage, self.attempts)),
            settled => self.noted(place, location, settled),
        }
    }

    /// All tries share the time of one picture.
    async fn tries(&self, location: &Location) -> Result<Vec<u8>, Failure> {
        let (deadline, mut backoff) = (self.deadline(), self.backoff.clone());
        loop {
            let tried = self.sources.fetch(location, deadline).await;
            if !matches!(tried, Err(Failure::Outage(_))) {
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
        place: usize,
        location: &Location,
        fetched: Result<Vec<u8>, Failure>,
    ) -> Result<Vec<u8>, Failure> {
        if fetched.is_ok() {
            *self.known_good[place].lock() = Some(location.clone());
        }
        fetched
    }

    async fn place_answers(&self, place: usize, location: &Location, outage: &Outage) -> bool {
        let known_good = self.known_good[place].lock().clone();
        match known_good.filter(|good| good != location) {
            Some(good) => {
                !matches!(self.sources.fetch(&good, self.deadline()).await, Err(Failure::Outage(_)))
            }
            None => match self.sources.policy().place_of(&outage.at) {
                Ok(failed) => self.sources.answers(failed, self.deadline()).await,
                Err(_) => false,
            },
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}

fn given_up(outage: &Outage, attempts: u32) -> Failure {
    Failure::refused(
        codes::UNAVAILABLE,
        format!(
            "{}; so it was in each of {} tries, while its place answers otherwise: mend the picture there, and replay the record",
            outage.reason,
            attempts + 1
        ),
    )
}
