//! A Qdrant endpoint for tests, a separate process that serves one and can be killed, and vectors
//! to fill it with.

mod cloud;
mod server;

use std::time::Duration;

use qdrant_client::Qdrant;
use qdrant_client::qdrant::{
    CreateCollection, CreateCollectionBuilder, Distance, PointStruct, UpsertPointsBuilder,
    VectorParamsBuilder,
};
use tempfile::TempDir;
use unprompt_embedded_index::EmbeddedIndex;
use uuid::Uuid;

pub use cloud::{Cloud, unit};
pub use server::{KilledServer, serve_until_killed};

/// The variable that names a Qdrant server (`http://host:6334`) to test instead of the embedded
/// endpoint.
pub const SERVER: &str = "UNPROMPT_TEST_QDRANT";

/// The endpoint of one test: an embedded one on a fresh folder, or the server that [`SERVER`]
/// names.
#[derive(Debug)]
pub struct TestEndpoint {
    pub url: String,
    embedded: Option<(EmbeddedIndex, TempDir)>,
}

impl TestEndpoint {
    pub async fn start() -> Self {
        match std::env::var(SERVER) {
            Ok(url) => Self { url, embedded: None },
            Err(_) => {
                let folder = tempfile::tempdir().expect("a folder for the index");
                let index = EmbeddedIndex::start(folder.path(), 0).await.expect("the endpoint starts");
                Self { url: index.url(), embedded: Some((index, folder)) }
            }
        }
    }

    pub fn client(&self) -> Qdrant {
        client(&self.url)
    }

    /// A client, and a new collection with one unnamed vector of 4 dimensions.
    pub async fn collection(&self) -> (Qdrant, String) {
        let (client, name) = (self.client(), unique("points"));
        client.create_collection(small(&name)).await.expect("a collection is created");
        (client, name)
    }

    pub async fn stop(self) {
        if let Some((index, _folder)) = self.embedded {
            index.stop().await.expect("the endpoint stops");
        }
    }
}

pub fn client(url: &str) -> Qdrant {
    let config = Qdrant::from_url(url).timeout(Duration::from_secs(60)).skip_compatibility_check();
    config.build().expect("a client of Qdrant")
}

/// A collection with one unnamed vector of 4 dimensions.
pub fn small(name: &str) -> CreateCollection {
    CreateCollectionBuilder::new(name).vectors_config(VectorParamsBuilder::new(4, Distance::Cosine)).build()
}

/// Writes points and waits until they are durable.
pub async fn upsert(client: &Qdrant, name: &str, points: Vec<PointStruct>) {
    let request = UpsertPointsBuilder::new(name, points).wait(true);
    client.upsert_points(request).await.expect("points are written");
}

/// A unique name, so that tests on one server do not interfere.
pub fn unique(stem: &str) -> String {
    format!("{stem}-{}", Uuid::new_v4().simple())
}
