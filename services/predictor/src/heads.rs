//! The head in use: taken from heads.v1 while the predictor runs, and checked before use.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use unprompt_index::MINILM_DIM;
use unprompt_models::calibration::Calibration;
use unprompt_models::head::RidgeHead;
use unprompt_models::recipe::TrainedHead;
use unprompt_schemas::records::Head;

/// Why an announced head is not used; the head in use stays.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RefusedHead {
    #[error(
        "head {name} fits encoder {head_encoder}, this predictor reads {encoder}; train a head for it (unprompt train)"
    )]
    OtherEncoder { name: String, head_encoder: String, encoder: String },
    #[error("head {name}: {path} cannot be read: {error}; put the file there or announce another head")]
    Unreadable { name: String, path: PathBuf, error: std::io::Error },
    #[error(
        "head {name}: {path} has sha256 {found}, {wanted} was announced; the file was changed or cut off"
    )]
    OtherContent { name: String, path: PathBuf, found: String, wanted: String },
    #[error(
        "head {name}: {path} is not in a folder for heads ({}); move it there, or add its folder to [predictor] head_folders",
        listed(folders)
    )]
    OutsideFolders { name: String, path: PathBuf, folders: Vec<PathBuf> },
    #[error("head {name}: {path} is not a regular file; put the head's safetensors file there")]
    NoFile { name: String, path: PathBuf },
    #[error("head {name}: {path} is larger than {} MiB, so it is not a head", HEAD_MAX_BYTES >> 20)]
    TooLarge { name: String, path: PathBuf },
    #[error(
        "head {name} predicts vectors of {head_minilm}, this predictor's are of {minilm}; train a head for it (unprompt train)"
    )]
    OtherMiniLm { name: String, head_minilm: String, minilm: String },
    #[error("head {name}: {reason}")]
    Malformed { name: String, reason: String },
}

/// The largest file of a head: forty times the weights of one for vectors of 1,024 values.
const HEAD_MAX_BYTES: u64 = 64 << 20;

fn listed(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The models that a head must fit, and the folders that its file may lie in.
#[derive(Clone, Debug)]
pub struct HeadRequirements {
    /// The name of the pictures' vectors: `name@revision`, with `;side=` if the side is not the
    /// trained one.
    pub encoder: String,
    /// The length of the pictures' vectors.
    pub dims: usize,
    /// `name@revision` of MiniLM.
    pub minilm: String,
    /// Anybody who may write to heads.v1 names a file of this machine, so only these folders are
    /// read.
    pub folders: Vec<PathBuf>,
}

/// A head with its learned blend weight and calibration.
#[derive(Debug)]
pub(crate) struct LoadedHead {
    announced: Head,
    trained: TrainedHead,
}

/// The head in use, shared between the predictor and the task that follows heads.v1.
#[derive(Clone, Debug)]
pub struct HeadStore {
    requirements: Arc<HeadRequirements>,
    current: Arc<RwLock<Option<Arc<LoadedHead>>>>,
}

impl HeadStore {
    /// An empty store.
    pub fn new(requirements: HeadRequirements) -> Self {
        Self { requirements: requirements.into(), current: Arc::default() }
    }

    /// Puts `head` in use, unless it is refused. The last announcement counts, whatever time it
    /// bears: clocks differ. Reads the head's file, so call it off the async threads.
    pub fn announce(&self, head: Head) -> Result<(), RefusedHead> {
        let loaded = load(head, &self.requirements)?;
        tracing::info!(head = %loaded.announced.name, blend_weight = loaded.announced.blend_weight, "head taken into use");
        *self.current.write() = Some(Arc::new(loaded));
        Ok(())
    }

    /// The name of the head in use.
    pub fn current_name(&self) -> Option<String> {
        self.current().map(|head| head.announced.name.clone())
    }

    /// Withdraws the head called `name`, as a null value on heads.v1 does.
    pub fn withdraw(&self, name: &str) {
        let mut current = self.current.write();
        if current.as_ref().is_some_and(|head| head.announced.name == name) {
            *current = None;
        }
    }

    pub(crate) fn current(&self) -> Option<Arc<LoadedHead>> {
        self.current.read().clone()
    }
}

impl LoadedHead {
    pub(crate) fn name(&self) -> &str {
        &self.announced.name
    }

    pub(crate) fn trained(&self) -> &TrainedHead {
        &self.trained
    }
}

fn load(head: Head, requirements: &HeadRequirements) -> Result<LoadedHead, RefusedHead> {
    let HeadRequirements { encoder, dims, minilm, folders } = requirements;
    if head.encoder != *encoder {
        let (name, head_encoder, encoder) = (head.name, head.encoder, encoder.clone());
        return Err(RefusedHead::OtherEncoder { name, head_encoder, encoder });
    }
    if head.minilm != *minilm {
        let (name, head_minilm, minilm) = (head.name, head.minilm, minilm.clone());
        return Err(RefusedHead::OtherMiniLm { name, head_minilm, minilm });
    }
    let path = PathBuf::from(&head.path);
    let bytes = read(&head, &path, folders)?;
    check_content(&head, &path, &bytes)?;
    let malformed = |reason: String| RefusedHead::Malformed { name: head.name.clone(), reason };
    let ridge = RidgeHead::from_bytes(&bytes).map_err(|e| malformed(e.to_string()))?;
    if ridge.dims() != (*dims, MINILM_DIM) {
        let (inputs, outputs) = ridge.dims();
        return Err(malformed(format!("it maps {inputs} values to {outputs}, not {dims} to {MINILM_DIM}")));
    }
    if !(0.0..=1.0).contains(&head.blend_weight) {
        return Err(malformed(format!("its weight in the blend is {}, not 0 to 1", head.blend_weight)));
    }
    let calibration = match head.calibration.is_empty() {
        true => None,
        false => Some(Calibration::from_values(&head.calibration).map_err(|e| malformed(e.to_string()))?),
    };
    let trained = TrainedHead { ridge, blend_weight: head.blend_weight as f32, calibration };
    Ok(LoadedHead { announced: head, trained })
}

/// Reads the head's file. A path that waits (a FIFO) or never ends (a device) is refused.
fn read(head: &Head, path: &Path, folders: &[PathBuf]) -> Result<Vec<u8>, RefusedHead> {
    let (name, path) = (head.name.clone(), path.to_owned());
    let unreadable =
        |error: io::Error| RefusedHead::Unreadable { name: name.clone(), path: path.clone(), error };
    // Links are followed first, so that none leads out of the folders.
    let real = path.canonicalize().map_err(unreadable)?;
    let allowed = |folder: &PathBuf| folder.canonicalize().is_ok_and(|folder| real.starts_with(folder));
    if !folders.iter().any(allowed) {
        return Err(RefusedHead::OutsideFolders { name, path, folders: folders.to_vec() });
    }
    let file = open_at_once(&real).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(RefusedHead::NoFile { name, path });
    }
    let mut bytes = Vec::new();
    file.take(HEAD_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    match bytes.len() as u64 > HEAD_MAX_BYTES {
        true => Err(RefusedHead::TooLarge { name, path }),
        false => Ok(bytes),
    }
}

/// Opens a file without waiting for the other end of a FIFO.
fn open_at_once(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn check_content(head: &Head, path: &Path, bytes: &[u8]) -> Result<(), RefusedHead> {
    let found = format!("{:x}", Sha256::digest(bytes));
    if found == head.sha256 {
        return Ok(());
    }
    Err(RefusedHead::OtherContent {
        name: head.name.clone(),
        path: path.to_owned(),
        found,
        wanted: head.sha256.clone(),
    })
}
