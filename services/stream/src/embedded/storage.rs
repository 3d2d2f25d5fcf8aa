//! Opening nisshi's SQLite storage in a data directory, and syncing it at the end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nisshi_storage::{ArcDynStorage, BrokerRegistrationRequest, Storage, StorageContainer};
use nisshi_storage_sql::LiteEngineFactory;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::log_reader::LogReader;
use super::quick_storage::QuickStorage;
use super::{CLUSTER, NODE, failed};
use crate::StreamError;

const FILE: &str = "broker.db";

/// Whether the last broker on this data ended without a stop: only then is its write-ahead log still there.
pub(super) fn was_killed(data_dir: &Path) -> bool {
    data_dir.join(format!("{FILE}-wal")).exists()
}

/// Opens (or creates) the storage, registered as the only broker, at the address clients shall use. The alias must
/// outlive the storage, which opens connections as it needs them.
pub(super) async fn open(
    data_dir: &Path,
    address: SocketAddr,
    stop: CancellationToken,
) -> Result<(QuickStorage, Alias), StreamError> {
    std::fs::create_dir_all(data_dir)
        .map_err(|source| StreamError::DataDir { path: data_dir.to_owned(), source })?;
    let advertised = Url::parse(&format!("tcp://{address}")).map_err(failed)?;
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
        .map_err(failed)?;
    register(&storage).await?;
    let log = LogReader::open(&file).await.map_err(failed)?;
    Ok((QuickStorage::new(storage, log), alias))
}

async fn register(storage: &ArcDynStorage) -> Result<(), StreamError> {
    let registration = BrokerRegistrationRequest {
        broker_id: NODE,
        cluster_id: CLUSTER.into(),
        incarnation_id: Uuid::new_v4(),
        rack: None,
    };
    storage.register_broker(registration).await.map_err(failed)
}

fn database(data_dir: &Path) -> Result<PathBuf, StreamError> {
    let absolute = std::path::absolute(data_dir.join(FILE));
    absolute.map_err(|source| StreamError::DataDir { path: data_dir.to_owned(), source })
}

/// The path that nisshi is given: the file's own, or one through a link where a URL would escape the file's own.
#[derive(Debug)]
pub(super) struct Alias {
    link: Option<PathBuf>,
}

impl Alias {
    /// `sqlite:///` and the absolute path: nisshi strips one slash of the URL's path, and opens the rest as it is,
    /// escapes and all.
    fn url_of(path: &Path) -> Result<(Url, Self), StreamError> {
        if let Some(url) = unescaped_url(path) {
            return Ok((url, Self { link: None }));
        }
        let link = std::env::temp_dir().join(format!("unprompt-{}", Uuid::new_v4()));
        let target = path.parent().unwrap_or(Path::new("/"));
        link_directory(target, &link)
            .map_err(|source| StreamError::DataDir { path: link.clone(), source })?;
        let alias = Self { link: Some(link.clone()) };
        let advice = "choose one whose path has only letters, digits, . _ - and /";
        let url = unescaped_url(&link.join(FILE));
        let url = url.ok_or_else(|| failed(format!("data directory {}: {advice}", target.display())))?;
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

/// Makes what the broker wrote durable: the database file, and the directory that names it.
pub(super) fn sync(data_dir: &Path) -> Result<(), StreamError> {
    let sync = |path: &Path| std::fs::File::open(path).and_then(|file| file.sync_all());
    let database = database(data_dir)?;
    sync(&database)
        .and_then(|()| sync(data_dir))
        .map_err(|source| StreamError::DataDir { path: data_dir.to_owned(), source })
}
