//! Claim check: records that hold the URI of a picture instead of the picture.
//!
//! Fetches allowed URIs with bounded concurrency and decodes each picture as it arrives, so that
//! encoded pictures take at most `concurrency` times `max_bytes`; the decoder bounds the memory of
//! decoding. Knows nothing of Kafka's client, and of the networks only the side that a picture is
//! resized to.

mod address;
mod events;
mod failure;
mod file;
mod http;
mod limits;
mod location;
mod patience;
mod policy;
mod s3;
mod settings;
mod sources;
mod uri_list;

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use futures::StreamExt;
use tokio::runtime::Handle;
use unprompt_stream::{BatchError, Rejection};

use crate::EncoderError;
use crate::decoder::{Decoder, Views};
use failure::{FetchFailure, Outage, codes};
use patience::Patience;
use sources::Sources;

pub use location::{BadUri, Location};
pub(crate) use policy::nothing_allowed;
pub use settings::{S3, Settings};
pub(crate) use uri_list::is_uri_list;

/// The position of a claim's record: topic, partition, offset.
pub(crate) type Position = (String, i32, i64);

/// The outcome of a claim.
pub(crate) type Redeemed = Result<Views, Rejection>;

/// Fetches pictures by their URIs; see `[claim_check]` in the configuration.
#[derive(Debug)]
pub struct ClaimCheck {
    runtime: Handle,
    patience: Patience,
    concurrency: usize,
    max_bytes: usize,
    /// Claims already settled in a batch that has to wait for others: the next attempt does not
    /// fetch them again.
    settled: HashMap<Position, Redeemed>,
}

impl ClaimCheck {
    /// Creates the clients from the settings; `image_bytes` is the limit on a picture if the
    /// settings give none.
    ///
    /// # Errors
    ///
    /// An invalid setting, or a client that cannot be created.
    pub fn new(settings: &Settings, image_bytes: usize, runtime: Handle) -> Result<Self, EncoderError> {
        let max_bytes = settings.max_bytes.unwrap_or(image_bytes);
        let sources = Sources::new(settings, max_bytes)?;
        Ok(Self {
            runtime,
            patience: Patience::new(sources, settings),
            concurrency: settings.concurrency,
            max_bytes,
            settled: HashMap::new(),
        })
    }

    /// Fetches and decodes the pictures that the lists of URIs name, in order.
    ///
    /// # Errors
    ///
    /// Transient if a place does not answer; pictures already fetched are kept for the next attempt
    /// with the same claims.
    pub(crate) fn redeem(
        &mut self,
        claims: Vec<(Position, &[u8])>,
        decoder: &Decoder,
    ) -> Result<Vec<Redeemed>, BatchError> {
        let wanted: HashSet<_> = claims.iter().map(|(position, _)| position.clone()).collect();
        self.settled.retain(|position, _| wanted.contains(position));
        let runtime = self.runtime.clone();
        runtime.block_on(self.settle(&claims, decoder))?;
        let missing = || BatchError::Fatal("a claim has no outcome: a programming error".into());
        claims.into_iter().map(|(position, _)| self.settled.remove(&position).ok_or_else(missing)).collect()
    }

    /// Settles the open claims. Stops at the first place that does not answer: the batch waits for
    /// it anyway.
    async fn settle(&mut self, claims: &[(Position, &[u8])], decoder: &Decoder) -> Result<(), BatchError> {
        let (patience, max_bytes) = (&self.patience, self.max_bytes);
        let open: Vec<_> =
            claims.iter().filter(|(position, _)| !self.settled.contains_key(position)).collect();
        let mut redeemed = futures::stream::iter(open)
            .map(async |(position, list)| (position, redeem_one(patience, list, decoder, max_bytes).await))
            .buffer_unordered(self.concurrency);
        while let Some((position, redeemed)) = redeemed.next().await {
            let settled = match redeemed {
                Ok(pixels) => Ok(pixels),
                Err(FetchFailure::Refused(rejection)) => Err(rejection),
                Err(FetchFailure::Outage(outage)) => return Err(BatchError::Transient(waiting(&outage))),
                Err(FetchFailure::Fatal(reason)) => return Err(BatchError::Fatal(reason)),
            };
            self.settled.insert(position.clone(), settled);
        }
        Ok(())
    }
}

/// Fetches and decodes one picture; its bytes are held only until it is decoded.
async fn redeem_one(
    patience: &Patience,
    list: &[u8],
    decoder: &Decoder,
    max_bytes: usize,
) -> Result<Views, FetchFailure> {
    let location = Location::parse(uri_list::only_uri(list)?)
        .map_err(|error| FetchFailure::refused(codes::BAD_URI, format!("the URI cannot be used: {error}")))?;
    let started = Instant::now();
    let result = patience.fetch(&location).await;
    events::Fetched { location: &location, result: &result, took: started.elapsed() }.emit();
    let (bytes, decoder) = (result?, decoder.clone());
    let decoding = tokio::task::spawn_blocking(move || decoder.decode(&bytes, max_bytes));
    let decoded =
        decoding.await.map_err(|panic| FetchFailure::Fatal(format!("decoding {location}: {panic}")))?;
    decoded.map_err(|rejection| {
        FetchFailure::refused(rejection.code, format!("{location}: {}", rejection.reason))
    })
}

fn waiting(outage: &Outage) -> String {
    format!(
        "{}; its place does not answer, so the batch waits for it. To give up its pictures instead, take the place out of allow in \
         [claim_check] and start again",
        outage.reason
    )
}
