//! The inputs of a run: files, folders, globs, standard input and objects of stores, in a stable
//! order.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::CorpusError;
use crate::remote::{self, RemoteFile};

/// The extensions of files that are read from folders, before `.gz` and `.zst`.
const EXTENSIONS: [&str; 8] = ["parquet", "csv", "tsv", "jsonl", "ndjson", "json", "txt", "text"];

/// An input that is read from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Input {
    /// The name in errors and reports, without secrets.
    pub name: String,
    pub size: Option<u64>,
    /// Changes when the content does: the time of the last change, or the store's tag.
    pub version: String,
    /// The time of the last change in milliseconds since 1970, if known.
    pub modified_ms: Option<i64>,
    pub(crate) location: InputLocation,
}

/// The location of an input.
#[derive(Clone, Debug)]
pub(crate) enum InputLocation {
    File(PathBuf),
    Stdin,
    Remote(Arc<RemoteFile>),
}

impl Input {
    /// Returns whether the input is standard input, which cannot be read twice.
    #[must_use]
    pub fn is_stdin(&self) -> bool {
        matches!(self.location, InputLocation::Stdin)
    }

    /// Returns the file's name without its folders, its compression ending and its extension.
    #[must_use]
    pub fn stem(&self) -> String {
        let file = self.name.rsplit('/').next().unwrap_or(&self.name);
        let file = unpacked(file);
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        if stem.is_empty() { file.to_owned() } else { stem.to_owned() }
    }

    fn file(path: PathBuf, metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            name: path.display().to_string(),
            size: metadata.is_file().then_some(metadata.len()),
            version: modified.map(|time| time.as_nanos().to_string()).unwrap_or_default(),
            modified_ms: modified.and_then(|time| i64::try_from(time.as_millis()).ok()),
            location: InputLocation::File(path),
        }
    }

    fn remote(file: RemoteFile) -> Self {
        Self {
            name: file.name.clone(),
            size: Some(file.size),
            version: file.version.clone(),
            modified_ms: Some(file.modified_ms),
            location: InputLocation::Remote(Arc::new(file)),
        }
    }

    fn stdin() -> Self {
        let (name, version) = ("stdin".to_owned(), String::new());
        Self { name, size: None, version, modified_ms: None, location: InputLocation::Stdin }
    }
}

/// Returns a name without `.gz`, `.zst` or `.zstd`.
pub(crate) fn unpacked(name: &str) -> &str {
    [".gz", ".zst", ".zstd"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// Returns whether a file of this name in a folder is read.
fn is_known(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let hidden = name.rsplit('/').next().unwrap_or_default().starts_with(['.', '_']);
    let extension = unpacked(&name).rsplit_once('.').map(|(_, extension)| extension);
    !hidden && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

/// Finds all inputs that `sources` name: files, folders (with their contents), globs, `-`,
/// `s3://bucket/key-or-prefix`, `http(s)://…`.
///
/// Sources stay in the order given; the inputs of one source are sorted by name.
///
/// # Errors
/// [`CorpusError::NoInput`] for a source without inputs, [`CorpusError::Unreadable`].
pub fn expand(sources: &[String]) -> Result<Vec<Input>, CorpusError> {
    let mut inputs = Vec::new();
    for source in sources {
        let found = match source.as_str() {
            "-" => vec![Input::stdin()],
            url if remote::is_url(url) => {
                remote::find(url, is_known)?.into_iter().map(Input::remote).collect()
            }
            path => local(path)?,
        };
        if found.is_empty() {
            let reason = format!("there is nothing to read ({})", EXTENSIONS.join(", "));
            return Err(CorpusError::NoInput { source_name: source.clone(), reason });
        }
        inputs.extend(found);
    }
    if inputs.iter().filter(|input| input.is_stdin()).count() > 1 {
        return Err(CorpusError::Options("standard input can be read once; give - once".into()));
    }
    Ok(inputs)
}

fn local(source: &str) -> Result<Vec<Input>, CorpusError> {
    let path = Path::new(source);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let mut files = Vec::new();
            walk(path, &mut files).map_err(|error| CorpusError::unreadable(source, error))?;
            files.sort();
            files.into_iter().map(one).collect()
        }
        Ok(metadata) => Ok(vec![Input::file(path.to_owned(), &metadata)]),
        Err(_) if source.contains(['*', '?', '[']) => matching(source),
        Err(error) => Err(CorpusError::NoInput { source_name: source.into(), reason: error.to_string() }),
    }
}

fn one(path: PathBuf) -> Result<Input, CorpusError> {
    let metadata =
        fs::metadata(&path).map_err(|error| CorpusError::unreadable(path.display().to_string(), error))?;
    Ok(Input::file(path, &metadata))
}

/// Returns the files that a glob matches. Folders that it matches are skipped.
fn matching(pattern: &str) -> Result<Vec<Input>, CorpusError> {
    let bad = |reason: String| CorpusError::NoInput { source_name: pattern.into(), reason };
    let paths = glob::glob(pattern).map_err(|error| bad(error.to_string()))?;
    let mut inputs = Vec::new();
    for path in paths {
        let path = path.map_err(|error| bad(error.to_string()))?;
        if path.is_file() {
            inputs.push(one(path)?);
        }
    }
    Ok(inputs)
}

/// Collects the files below a folder that have a known extension. Follows links to files, not to
/// folders.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(&path, files)?;
        } else if is_known(&entry.file_name().to_string_lossy()) && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}
