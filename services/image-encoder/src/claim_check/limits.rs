//! The bounds of a fetch: its time, and the bytes that it may hold.

use tokio::time::{Instant, timeout_at};

use super::failure::{Failure, codes};
use super::location::Location;

/// What an answer of unknown length is given room for at first.
const FIRST_BYTES: usize = 64 << 10;

/// What `fetching` gives, unless the time is over before.
pub async fn within<T>(
    deadline: Instant,
    at: &Location,
    fetching: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout_at(deadline, fetching).await.unwrap_or_else(|_| {
        Err(Failure::outage(at, format!("{at} took longer than timeout_ms in [claim_check] allows")))
    })
}

/// The bytes of a picture as they come. What was announced is not trusted: what comes is counted.
#[derive(Debug)]
pub struct Body<'a> {
    at: &'a Location,
    bytes: Vec<u8>,
    max_bytes: usize,
}

impl<'a> Body<'a> {
    /// For an answer that announces `announced` bytes.
    pub fn new(at: &'a Location, announced: Option<u64>, max_bytes: usize) -> Result<Self, Failure> {
        let room = match announced.map(usize::try_from) {
            Some(Ok(bytes)) if bytes <= max_bytes => bytes,
            Some(_) => return Err(Failure::too_large(at, max_bytes)),
            None => FIRST_BYTES.min(max_bytes),
        };
        Ok(Self { at, bytes: Vec::with_capacity(room), max_bytes })
    }

    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        let needed = self.bytes.len() + chunk.len();
        if needed > self.max_bytes {
            return Err(Failure::too_large(self.at, self.max_bytes));
        }
        // By itself it would double beyond what is allowed.
        let room = (2 * self.bytes.capacity()).clamp(needed, self.max_bytes);
        if needed > self.bytes.capacity() {
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    pub fn finish(self) -> Result<Vec<u8>, Failure> {
        match self.bytes.is_empty() {
            true => Err(Failure::refused(
                codes::EMPTY,
                format!("{} is empty; put the encoded picture there", self.at),
            )),
            false => Ok(self.bytes),
        }
    }
}
