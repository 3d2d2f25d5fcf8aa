//! The limits of a fetch: its time and its bytes.

use tokio::time::{Instant, timeout_at};

use super::failure::{FetchFailure, codes};
use super::location::Location;

/// The initial capacity for a body of unknown length.
const FIRST_BYTES: usize = 64 << 10;

/// Runs `fetching` until the deadline.
pub async fn within<T>(
    deadline: Instant,
    at: &Location,
    fetching: impl Future<Output = Result<T, FetchFailure>>,
) -> Result<T, FetchFailure> {
    timeout_at(deadline, fetching).await.unwrap_or_else(|_| {
        Err(FetchFailure::outage(at, format!("{at} took longer than timeout_ms in [claim_check] allows")))
    })
}

/// The bytes of a picture as they arrive. The received bytes are counted; the announced length is
/// not trusted.
#[derive(Debug)]
pub struct Body<'a> {
    at: &'a Location,
    bytes: Vec<u8>,
    max_bytes: usize,
}

impl<'a> Body<'a> {
    /// A body that announces `announced` bytes.
    pub fn new(at: &'a Location, announced: Option<u64>, max_bytes: usize) -> Result<Self, FetchFailure> {
        let room = match announced.map(usize::try_from) {
            Some(Ok(bytes)) if bytes <= max_bytes => bytes,
            Some(_) => return Err(FetchFailure::too_large(at, max_bytes)),
            None => FIRST_BYTES.min(max_bytes),
        };
        Ok(Self { at, bytes: Vec::with_capacity(room), max_bytes })
    }

    pub fn push(&mut self, chunk: &[u8]) -> Result<(), FetchFailure> {
        let needed = self.bytes.len() + chunk.len();
        if needed > self.max_bytes {
            return Err(FetchFailure::too_large(self.at, self.max_bytes));
        }
        // Without this the vector would double beyond the limit.
        let room = (2 * self.bytes.capacity()).clamp(needed, self.max_bytes);
        if needed > self.bytes.capacity() {
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    pub fn finish(self) -> Result<Vec<u8>, FetchFailure> {
        match self.bytes.is_empty() {
            true => Err(FetchFailure::refused(
                codes::EMPTY,
                format!("{} is empty; put the encoded picture there", self.at),
            )),
            false => Ok(self.bytes),
        }
    }
}
