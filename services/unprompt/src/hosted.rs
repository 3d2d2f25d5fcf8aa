//! The servers that this process can host. A build without one of them returns an error when it is
//! started.

use std::path::Path;

#[cfg(feature = "embedded-broker")]
pub use unprompt_embedded_broker::EmbeddedBroker;
#[cfg(feature = "embedded-index")]
pub use unprompt_embedded_index::EmbeddedIndex;

#[cfg(not(feature = "embedded-broker"))]
pub use absent::EmbeddedBroker;
#[cfg(not(feature = "embedded-index"))]
pub use absent::EmbeddedIndex;

/// Starts the embedded index. The error for a damaged folder says how to get the prompts into a new
/// one.
#[cfg(feature = "embedded-index")]
pub async fn start_index(folder: &Path, port: u16) -> anyhow::Result<EmbeddedIndex> {
    use unprompt_embedded_index::EmbeddedIndexError;
    let advice = "with `unprompt index restore` from a snapshot, or by indexing the prompts again";
    EmbeddedIndex::start(folder, port).await.map_err(|error| match error {
        EmbeddedIndexError::Damaged { .. } => anyhow::anyhow!("{error}: {advice}"),
        error => error.into(),
    })
}

/// Waits until a hosted server has failed without being stopped. Returns its name and the reason.
pub async fn failed(
    broker: Option<&EmbeddedBroker>,
    index: Option<&EmbeddedIndex>,
) -> (&'static str, String) {
    let broker_ended = async {
        match broker {
            Some(broker) => broker.ended().await,
            None => std::future::pending().await,
        }
    };
    let index_failed = async {
        match index {
            Some(index) => index.failed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = broker_ended => ("embedded broker", "it has ended".to_owned()),
        reason = index_failed => ("embedded index", reason),
    }
}

/// Fails, because this build has no index.
#[cfg(not(feature = "embedded-index"))]
pub async fn start_index(folder: &Path, port: u16) -> anyhow::Result<EmbeddedIndex> {
    EmbeddedIndex::start(folder, port).await
}

#[cfg(not(all(feature = "embedded-broker", feature = "embedded-index")))]
mod absent {
    use std::net::SocketAddr;
    use std::path::Path;

    macro_rules! absent {
        ($name:ident, $feature:literal, $instead:literal) => {
            #[cfg(not(feature = $feature))]
            #[derive(Debug)]
            pub enum $name {}

            #[cfg(not(feature = $feature))]
            impl $name {
                pub async fn start(_: &Path, _: u16) -> anyhow::Result<Self> {
                    anyhow::bail!(concat!(
                        "built without ",
                        $feature,
                        ": give ",
                        $instead,
                        ", or build with that feature"
                    ))
                }

                pub fn address(&self) -> SocketAddr {
                    match *self {}
                }

                pub async fn ended(&self) {
                    match *self {}
                }

                pub async fn failed(&self) -> String {
                    match *self {}
                }

                pub async fn stop(self) -> anyhow::Result<()> {
                    match self {}
                }
            }
        };
    }

    absent!(EmbeddedBroker, "embedded-broker", "--kafka");
    absent!(EmbeddedIndex, "embedded-index", "--qdrant");
}

#[cfg(all(test, feature = "embedded-index"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_index_error_says_how_to_restore_the_prompts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("catalogue.json"), "{").unwrap();
        let error = start_index(folder.path(), 0).await.unwrap_err().to_string();
        for part in ["catalogue.json", "move it away", "unprompt index restore"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
}
