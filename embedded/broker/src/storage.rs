//! Opens nisshi's SQLite storage in a data directory and syncs it at the end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nisshi_storage::{ArcDynStorage, BrokerRegistrationRequest, Storage, StorageContainer};
use nisshi_storage_sql::LiteEngineFactory;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::log_reader::LogReader;
use crate::quick_storage::QuickStorage;
use crate::wal_sync::WalSync;
use crate::{CLUSTER, EmbeddedBrokerError, NODE};

const FILE: &str = "broker.db";

/// Returns whether the last broker on this data was killed. Only then does its write-ahead log
/// still exist.
pub(crate) fn was_killed(data_dir: &Path) -> bool {
    data_dir.join(format!("{FILE}-wal")).exists()
}

/// Opens or creates the storage and registers the only broker with its client address. The alias
/// must outlive the storage, which opens connections on demand.
pub(crate) async fn open(
    data_dir: &Path,
    address: SocketAddr,
    stop: CancellationToken,
) -> Result<(QuickStorage, Alias), EmbeddedBrokerError> {
    std::fs::create_dir_all(data_dir).map_err(EmbeddedBrokerError::data_dir(data_dir))?;
    let advertised = Url::parse(&format!("tcp://{address}")).map_err(EmbeddedBrokerError::storage)?;
    let file = database(data_dir)?;
    let (url, alias) = Alias::url_of(&file)?;
    let mut builder = StorageContainer::builder();
    builder.with_factory(Arc::new(LiteEngineFactory));
    let storage = builder
        .cluster_id(CLUSTER)
        .node_id(NODE)
        .advertised_listener(advertised)
        .schema_registry(None)
        .lake_house(None)
        .storage(url)
        .cancellation(stop)
        .silent(true)
        .user_credentials_required(false)
        .build()
        .await
        .map_err(EmbeddedBrokerError::storage)?;
    register(&storage).await?;
    let log = LogReader::open(&file).await.map_err(EmbeddedBrokerError::storage)?;
    Ok((QuickStorage::new(storage, log, WalSync::of(&file)), alias))
}

async fn register(storage: &ArcDynStorage) -> Result<(), EmbeddedBrokerError> {
    let registration = BrokerRegistrationRequest {
        broker_id: NODE,
        cluster_id: CLUSTER.into(),
        incarnation_id: Uuid::new_v4(),
        rack: None,
    };
    storage.register_broker(registration).await.map_err(EmbeddedBrokerError::storage)
}

fn database(data_dir: &Path) -> Result<PathBuf, EmbeddedBrokerError> {
    std::path::absolute(data_dir.join(FILE)).map_err(EmbeddedBrokerError::data_dir(data_dir))
}

/// The path that nisshi opens: the file's own path, or a path through a symbolic link if a URL
/// would escape some of its characters. Dropping the alias removes the link.
#[derive(Debug)]
pub(crate) struct Alias {
    link: Option<PathBuf>,
}

impl Alias {
    /// Builds the URL: `sqlite:///` and the absolute path. nisshi strips one slash of the URL's
    /// path and opens the rest without decoding its escapes.
    fn url_of(path: &Path) -> Result<(Url, Self), EmbeddedBrokerError> {
        if let Some(url) = unescaped_url(path) {
            return Ok((url, Self { link: None }));
        }
        let link = std::env::temp_dir().join(format!("unprompt-{}", Uuid::new_v4()));
        let target = path.parent().unwrap_or(Path::new("/"));
        link_directory(target, &link).map_err(EmbeddedBrokerError::data_dir(&link))?;
        let alias = Self { link: Some(link.clone()) };
        let url = unescaped_url(&link.join(FILE));
        let url = url.ok_or_else(|| EmbeddedBrokerError::EscapedPath { path: target.to_owned() })?;
        Ok((url, alias))
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        if let Some(link) = &self.link
            && let Err(error) = std::fs::remove_file(link)
        {
            tracing::debug!(link = %link.display(), %error, "a link is left behind");
        }
    }
}

fn unescaped_url(path: &Path) -> Option<Url> {
    let url = Url::parse(&format!("sqlite:///{}", path.to_str()?)).ok()?;
    let opened = url.path().strip_prefix('/')?;
    (Path::new(opened) == path && url.query().is_none() && url.fragment().is_none()).then_some(url)
}

#[cfg(unix)]
fn link_directory(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn link_directory(_target: &Path, _link: &Path) -> std::io::Result<()> {
    Err(std::io::Error::other("its path has characters that a URL escapes"))
}

/// Syncs the database file and its directory to disk.
pub(crate) fn sync(data_dir: &Path) -> Result<(), EmbeddedBrokerError> {
    let sync = |path: &Path| std::fs::File::open(path).and_then(|file| file.sync_all());
    let database = database(data_dir)?;
    sync(&database).and_then(|()| sync(data_dir)).map_err(EmbeddedBrokerError::data_dir(data_dir))
}
