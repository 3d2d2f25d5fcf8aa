//! Objects of stores: S3 and compatible stores, and web servers. It knows nothing of formats or of
//! other inputs.
//!
//! Credentials and endpoints of S3 come from the environment, as object_store reads them
//! (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, AWS_ALLOW_HTTP, …). No name
//! here holds a password.

use std::fmt;
use std::future::Future;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Runtime;
use url::Url;

use crate::CorpusError;

/// The bytes of one request in a sequential read.
const PART_BYTES: u64 = 4 << 20;

/// A store, and the thread that sends its requests.
struct RemoteStore {
    objects: Arc<dyn ObjectStore>,
    /// None only during drop.
    runtime: Option<Runtime>,
}

/// An object of a store at one version: reading stops with an error if the object changes.
pub(crate) struct RemoteFile {
    store: Arc<RemoteStore>,
    path: Path,
    /// The URL, without secrets.
    pub name: String,
    pub size: u64,
    /// The tag, or the time of the last change if the store gives none.
    pub version: String,
    /// The time of the last change, milliseconds since 1970.
    pub modified_ms: i64,
    tag: Option<String>,
}

impl RemoteStore {
    /// Runs `work` on the store's thread and waits for its result. Works from any thread.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                // The waiting caller may be gone.
                let _ = done.send(work.await);
            });
        }
        result.recv().map_err(io::Error::other)
    }
}

impl Drop for RemoteStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl RemoteFile {
    fn new(store: &Arc<RemoteStore>, base: &str, object: ObjectMeta) -> Self {
        let modified_ms = object.last_modified.timestamp_millis();
        Self {
            store: store.clone(),
            name: format!("{base}/{}", object.location),
            path: object.location,
            size: object.size,
            version: object.e_tag.clone().unwrap_or_else(|| modified_ms.to_string()),
            modified_ms,
            tag: object.e_tag,
        }
    }

    fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let (objects, path) = (self.store.objects.clone(), self.path.clone());
        let options =
            GetOptions { if_match: self.tag.clone(), ..GetOptions::default() }.with_range(Some(range));
        let got = self.store.wait(async move { objects.get_opts(&path, options).await?.bytes().await })?;
        got.map_err(io::Error::other)
    }

    /// Reads the object from `start` to its end.
    pub fn reader(self: &Arc<Self>, start: u64) -> RemoteReader {
        RemoteReader { file: self.clone(), at: start, part: Bytes::new() }
    }
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFile")
            .field("path", &self.path)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Reads an object part by part.
pub(crate) struct RemoteReader {
    file: Arc<RemoteFile>,
    /// The offset of the next part.
    at: u64,
    part: Bytes,
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.part.is_empty() && self.at < self.file.size {
            let end = (self.at + PART_BYTES).min(self.file.size);
            self.part = self.file.range(self.at..end)?;
            if self.part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.at += self.part.len() as u64;
        }
        let length = buffer.len().min(self.part.len());
        buffer[..length].copy_from_slice(&self.part.split_to(length));
        Ok(length)
    }
}

/// An object for parquet, which reads the end first and then the parts that it needs.
pub(crate) struct RemoteChunks(pub Arc<RemoteFile>);

impl Length for RemoteChunks {
    fn len(&self) -> u64 {
        self.0.size
    }
}

impl ChunkReader for RemoteChunks {
    type T = RemoteReader;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.0.reader(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.saturating_add(length as u64);
        if end > self.0.size {
            return Err(ParquetError::EOF(format!("{end} is beyond its end at {}", self.0.size)));
        }
        self.0.range(start..end).map_err(|error| ParquetError::External(Box::new(error)))
    }
}

/// Returns whether the source is the URL of an object or of a store's folder.
pub(crate) fn is_url(source: &str) -> bool {
    ["s3://", "http://", "https://"].iter().any(|scheme| source.starts_with(scheme))
}

/// Returns the objects that a URL names: one, or on S3 those that match a glob, or those below a
/// prefix whose names are wanted.
pub(crate) fn find(url: &str, is_wanted: fn(&str) -> bool) -> Result<Vec<RemoteFile>, CorpusError> {
    let refused = |reason: &str| CorpusError::NoInput { source_name: redacted(url), reason: reason.into() };
    let parsed = Url::parse(url).map_err(|error| refused(&error.to_string()))?;
    let http = parsed.scheme() != "s3";
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(refused(
            "an address with a password ends up in logs; leave it out, or download the file",
        ));
    }
    if http && parsed.query().is_some() {
        return Err(refused("addresses with a query are not fetched; download the file, or use s3://"));
    }
    let unreadable = |reason: &dyn fmt::Display| CorpusError::unreadable(redacted(url), reason);
    let store = Arc::new(if http { web(&parsed) } else { s3(&parsed) }.map_err(|error| unreadable(&error))?);
    let path = Path::from_url_path(parsed.path()).map_err(|error| unreadable(&error))?;
    let found = match http {
        true => store.one(&path).map(|object| vec![object]),
        false => store.all(&path, parsed.path(), is_wanted),
    };
    let found = found.map_err(|error| unreadable(&error))?;
    let base = base(&parsed);
    Ok(found.into_iter().map(|object| RemoteFile::new(&store, &base, object)).collect())
}

impl RemoteStore {
    fn new(objects: impl ObjectStore) -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("object-store").enable_all().build()?;
        Ok(Self { objects: Arc::new(objects), runtime: Some(runtime) })
    }

    fn one(&self, path: &Path) -> io::Result<ObjectMeta> {
        let (objects, path) = (self.objects.clone(), path.clone());
        self.wait(async move { objects.head(&path).await })?.map_err(io::Error::other)
    }

    /// Returns the object with this key, the objects that match it as a glob, or the wanted objects
    /// below it; sorted.
    fn all(&self, path: &Path, key: &str, is_wanted: fn(&str) -> bool) -> io::Result<Vec<ObjectMeta>> {
        let key = key.trim_start_matches('/');
        let pattern = key.contains(['*', '?', '[']).then(|| glob::Pattern::new(key)).transpose();
        let pattern = pattern.map_err(io::Error::other)?;
        if pattern.is_none()
            && !key.ends_with('/')
            && let Ok(object) = self.one(path)
        {
            return Ok(vec![object]);
        }
        let folder = key.split(['*', '?', '[']).next().unwrap_or_default();
        let folder = folder.rsplit_once('/').map_or("", |(folder, _)| folder);
        let prefix = if pattern.is_some() { Path::from(folder) } else { path.clone() };
        let mut objects = self.list(prefix)?;
        objects.retain(|object| match &pattern {
            Some(pattern) => pattern.matches(object.location.as_ref()),
            None => is_wanted(object.location.as_ref()),
        });
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(objects)
    }

    fn list(&self, prefix: Path) -> io::Result<Vec<ObjectMeta>> {
        let objects = self.objects.clone();
        let listed = self.wait(async move { objects.list(Some(&prefix)).try_collect::<Vec<_>>().await })?;
        listed.map_err(io::Error::other)
    }
}

fn s3(url: &Url) -> io::Result<RemoteStore> {
    let bucket = format!("s3://{}", url.host_str().unwrap_or_default());
    let store = AmazonS3Builder::from_env().with_url(bucket).build().map_err(io::Error::other)?;
    RemoteStore::new(store)
}

fn web(url: &Url) -> io::Result<RemoteStore> {
    let options = ClientOptions::new().with_allow_http(true);
    let server = &url[..url::Position::BeforePath];
    let store =
        HttpBuilder::new().with_url(server).with_client_options(options).build().map_err(io::Error::other)?;
    RemoteStore::new(store)
}

/// Returns the scheme, host and port of a URL, without the user's name and password.
fn base(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Returns the URL without secrets, for errors.
fn redacted(url: &str) -> String {
    match Url::parse(url) {
        Ok(parsed) => format!("{}{}", base(&parsed), parsed.path()),
        Err(_) => "the address".to_owned(),
    }
}
