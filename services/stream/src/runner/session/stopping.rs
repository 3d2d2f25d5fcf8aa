//! The end of a session: what is still finished, and how the group is left.

use std::time::{Duration, Instant};

use super::{OutputWriter, Session, ms};
use crate::runner::batch::Batch;

/// Leaving the group takes no longer than this, whatever the broker does.
const CLOSE_PATIENCE: Duration = Duration::from_secs(15);

impl Session<'_> {
    /// Takes no more records. Batches with the stage finish; records that waited for a
    /// batch stay uncommitted.
    pub(super) fn begin_stop(&mut self) {
        self.stop_deadline = Some(Instant::now() + ms(self.config.stop_timeout_ms));
        let dropped = self.batcher.drop_unless(|_| false);
        self.in_flight.release(&dropped);
        tracing::info!(service = self.stage.service.name, batches = self.batches.len(), "stopping");
    }

    pub(super) fn has_stopped(&self, now: Instant) -> bool {
        let Some(deadline) = self.stop_deadline else { return false };
        let in_hand = |batch: &Batch| batch.sends > 0 || (batch.with_stage && !self.interrupted);
        let unfinished = self.committing_since.is_some() || self.batches.values().any(in_hand);
        if unfinished && deadline <= now {
            tracing::warn!(
                service = self.stage.service.name,
                "some batches did not finish in time; their records will be processed again"
            );
        }
        !unfinished || deadline <= now
    }

    /// Commits what is done and leaves the group.
    pub(super) async fn leave(mut self) {
        self.clear_gauges();
        if let OutputWriter::AtLeastOnce(queue) = &self.writer {
            queue.purge();
        }
        // The loop is over, so a callback must not wait for it.
        self.events.close();
        self.revoking = None;
        let offsets = match self.writer {
            OutputWriter::AtLeastOnce(_) => {
                self.offsets.forget_requests();
                self.offsets.take_dirty()
            }
            OutputWriter::ExactlyOnce(_) => Vec::new(),
        };
        let consumer = self.consumer;
        drop(self.events);
        let closing = tokio::task::spawn_blocking(move || consumer.close(offsets));
        if tokio::time::timeout(CLOSE_PATIENCE, closing).await.is_err() {
            tracing::warn!(group = self.group, "kafka does not answer; left the group without notice");
        }
    }
}
