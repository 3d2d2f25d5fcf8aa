//! Detects that one of the endpoint's threads has ended unexpectedly. Otherwise writes would wait
//! for ever, or no graph would be built, while everything looks healthy.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::{io, thread};

use tokio_util::sync::CancellationToken;

/// The first thread that ended unexpectedly. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    first: Arc<OnceLock<String>>,
    noticed: CancellationToken,
}

/// Reports its thread unless the thread ends as it should.
#[derive(Debug)]
pub(crate) struct Watched {
    faults: Faults,
    thread: String,
    ended_well: bool,
}

impl Faults {
    /// Starts a watched thread: every thread of a collection is started here. `what` describes it
    /// in the fault report.
    pub fn spawn(
        &self,
        name: String,
        what: String,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let faults = self.clone();
        thread::Builder::new().name(name).spawn(move || {
            let watched = faults.watch(what);
            body();
            watched.ends();
        })
    }

    /// Watches a thread or task; call it on the thread itself.
    pub fn watch(&self, thread: String) -> Watched {
        Watched { faults: self.clone(), thread, ended_well: false }
    }

    /// Notes why the endpoint no longer works.
    pub fn report(&self, reason: String) {
        tracing::error!(reason, "the embedded index no longer works");
        self.first.get_or_init(|| reason);
        self.noticed.cancel();
    }

    /// Waits for the first fault.
    pub async fn noticed(&self) -> String {
        self.noticed.cancelled().await;
        self.first.get().cloned().unwrap_or_default()
    }
}

impl Watched {
    /// Notes that the thread ends because it was asked to.
    pub fn ends(mut self) {
        self.ended_well = true;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended_well {
            self.faults.report(format!("{} has ended", self.thread));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_thread_is_reported_and_one_that_ends_normally_is_not() {
        let faults = Faults::default();
        let (asked, panicking) = (faults.clone(), faults.clone());
        asked.spawn("first".into(), "the first thread".into(), || ()).unwrap().join().unwrap();
        assert!(!faults.noticed.is_cancelled());
        let thread = panicking.spawn("second".into(), "the second thread".into(), || panic!("on purpose"));
        assert!(thread.unwrap().join().is_err());
        faults.report("a later one".into());
        assert_eq!(faults.noticed().await, "the second thread has ended");
    }
}
