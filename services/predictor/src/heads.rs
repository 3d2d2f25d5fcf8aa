//! The head in use: taken from heads.v1 while the predictor runs, and checked before use.

use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
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
    #[error("head {name}: {reason}")]
    Malformed { name: String, reason: String },
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
    encoder: Arc<str>,
    current: Arc<RwLock<Option<Arc<LoadedHead>>>>,
}

impl HeadStore {
    /// An empty store for heads of `encoder`, the name of the pictures' vectors: `name@revision`,
    /// with `;side=` if the side is not the trained one.
    pub fn new(encoder: &str) -> Self {
        Self { encoder: encoder.into(), current: Arc::default() }
    }

    /// Puts `head` in use, unless it is refused. An announcement older than the head in use has no
    /// effect.
    pub fn announce(&self, head: Head) -> Result<(), RefusedHead> {
        if self.current().is_some_and(|current| current.announced.created_at_ms > head.created_at_ms) {
            return Ok(());
        }
        let loaded = load(head, &self.encoder)?;
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

fn load(head: Head, encoder: &str) -> Result<LoadedHead, RefusedHead> {
    if head.encoder != encoder {
        return Err(RefusedHead::OtherEncoder {
            name: head.name,
            head_encoder: head.encoder,
            encoder: encoder.to_owned(),
        });
    }
    let path = PathBuf::from(&head.path);
    let bytes = std::fs::read(&path).map_err(|error| RefusedHead::Unreadable {
        name: head.name.clone(),
        path: path.clone(),
        error,
    })?;
    check_content(&head, &path, &bytes)?;
    let malformed = |reason: String| RefusedHead::Malformed { name: head.name.clone(), reason };
    let ridge = RidgeHead::from_bytes(&bytes).map_err(|e| malformed(e.to_string()))?;
    let calibration = match head.calibration.is_empty() {
        true => None,
        false => Some(Calibration::from_values(&head.calibration).map_err(|e| malformed(e.to_string()))?),
    };
    let trained = TrainedHead { ridge, blend_weight: head.blend_weight as f32, calibration };
    Ok(LoadedHead { announced: head, trained })
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
