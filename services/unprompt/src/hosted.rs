//! The servers that this process may host. A build without one of them says so when it is asked for.

#[cfg(feature = "embedded-broker")]
pub use unprompt_embedded_broker::EmbeddedBroker;
#[cfg(feature = "embedded-index")]
pub use unprompt_index::embedded::EmbeddedIndex;

#[cfg(not(feature = "embedded-broker"))]
pub use absent::EmbeddedBroker;
#[cfg(not(feature = "embedded-index"))]
pub use absent::EmbeddedIndex;

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

                pub async fn stop(self) -> anyhow::Result<()> {
                    match self {}
                }
            }
        };
    }

    absent!(EmbeddedBroker, "embedded-broker", "--kafka");
    absent!(EmbeddedIndex, "embedded-index", "--qdrant");
}
