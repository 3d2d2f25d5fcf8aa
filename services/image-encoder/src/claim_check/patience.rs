//! When a picture that cannot be fetched for now is given up.
//!
//! The rule: **a picture that fails in every try is given up when its place, asked for something else, answers, and it fails
//! once more after that; where its place does not answer, its batch waits.** So an outage puts nothing into the dead letters,
//! and one broken object does not hold up a topic. "Its place" is where it failed: a redirect may have led there. "Something
//! else" is the picture that was last fetched from there, or, where there was none, the allowed prefix itself.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use unprompt_stream::Backoff;

use super::failure::{Failure, Outage, codes};
use super::location::Location;
use super::settings::Settings;
use super::sources::{Found, Sources};

/// Fetches with retries, and tells an outage from a picture that is at fault.
#[derive(Debug)]
pub struct Patience {
    sources: Sources,
    /// By place: the last picture that was fetched from there, or by a redirect from there.
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
        let outage = match self.tries(location).await {
            Err(Failure::Outage(outage)) => outage,
            settled => return self.noted(location, settled),
        };
        if !self.place_answers(location, &outage).await {
            return Err(Failure::Outage(outage));
        }
        // The place may have been away until now.
        match self.sources.fetch(location, self.deadline()).await {
            Err(Failure::Outage(last)) if self.is_elsewhere(&last, &outage) => Err(Failure::Outage(last)),
            Err(Failure::Outage(last)) => Err(given_up(&last, self.attempts)),
            settled => self.noted(location, settled),
        }
    }

    /// Whether it failed in a place that was not asked.
    fn is_elsewhere(&self, outage: &Outage, asked: &Outage) -> bool {
        let place = |outage: &Outage| self.sources.policy().place_of(&outage.at).ok();
        place(outage) != place(asked)
    }

    /// All tries share the time of one picture.
    async fn tries(&self, location: &Location) -> Result<Found, Failure> {
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

    fn noted(&self, location: &Location, fetched: Result<Found, Failure>) -> Result<Vec<u8>, Failure> {
        let Found { bytes, at } = fetched?;
        // What a redirect leads to may soon expire: for both places the URI before it is kept.
        for known in [location, &at] {
            let place = self.sources.policy().place_of(known)?;
            *self.known_good[place].lock() = Some(location.clone());
        }
        Ok(bytes)
    }

    /// Whether the place where it failed answers: of one behind a redirect the first place says nothing.
    async fn place_answers(&self, location: &Location, outage: &Outage) -> bool {
        let Ok(place) = self.sources.policy().place_of(&outage.at) else { return false };
        let known_good = self.known_good[place].lock().clone();
        match known_good.filter(|good| good != location) {
            Some(good) => {
                !matches!(self.sources.fetch(&good, self.deadline()).await, Err(Failure::Outage(_)))
            }
            None => self.sources.answers(place, self.deadline()).await,
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
