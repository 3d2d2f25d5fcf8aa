//! The vector kinds and sizes of a collection, to refuse a point that does not match before it is
//! written to the log.

use std::collections::HashMap;

use qdrant_client::qdrant::CollectionConfig;
use qdrant_edge::VectorPersisted;
use tonic::Status;

use crate::convert::config as convert;
use crate::convert::vectors::Named;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VectorKind {
    Dense(usize),
    MultiDense(usize),
    Sparse,
}

/// The kinds and sizes of a collection's vectors, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape(HashMap<String, VectorKind>);

impl Shape {
    pub fn of(config: &CollectionConfig) -> Self {
        let mut kinds = HashMap::new();
        for (name, params) in convert::dense_params(config) {
            let size = usize::try_from(params.size).unwrap_or(usize::MAX);
            let multi = params.multivector_config.is_some();
            kinds.insert(name, if multi { VectorKind::MultiDense(size) } else { VectorKind::Dense(size) });
        }
        let sparse = config.params.as_ref().and_then(|params| params.sparse_vectors_config.as_ref());
        for name in sparse.into_iter().flat_map(|sparse| sparse.map.keys()) {
            kinds.insert(name.clone(), VectorKind::Sparse);
        }
        Self(kinds)
    }

    /// The length of the longest dense vector; 1 if there is none.
    pub fn largest_dim(&self) -> usize {
        let dims = self.0.values().map(|kind| match kind {
            VectorKind::Dense(size) | VectorKind::MultiDense(size) => *size,
            VectorKind::Sparse => 1,
        });
        dims.max().unwrap_or(1).max(1)
    }

    /// Refuses vectors with an unknown name, another kind or another length.
    pub fn check(&self, vectors: &Named) -> Result<(), Status> {
        vectors.iter().try_for_each(|(name, vector)| self.check_one(name, vector))
    }

    /// Refuses an unknown vector name.
    pub fn check_name(&self, name: &str) -> Result<(), Status> {
        self.kind(name).map(|_| ())
    }

    fn check_one(&self, name: &str, vector: &VectorPersisted) -> Result<(), Status> {
        match (self.kind(name)?, vector) {
            (VectorKind::Dense(size), VectorPersisted::Dense(dense)) => check_len(size, dense.len()),
            (VectorKind::MultiDense(size), VectorPersisted::MultiDense(rows)) => {
                rows.iter().try_for_each(|row| check_len(size, row.len()))
            }
            // A multi-vector of one row may be sent as a dense vector.
            (VectorKind::MultiDense(size), VectorPersisted::Dense(dense)) => check_len(size, dense.len()),
            (VectorKind::Sparse, VectorPersisted::Sparse(_)) => Ok(()),
            (kind, _) => {
                Err(Status::invalid_argument(format!("Wrong input: the vector {name:?} is {kind:?}")))
            }
        }
    }

    fn kind(&self, name: &str) -> Result<VectorKind, Status> {
        let found = self.0.get(name).copied();
        found.ok_or_else(|| {
            Status::invalid_argument(format!("Wrong input: Not existing vector name error: {name}"))
        })
    }
}

fn check_len(expected: usize, got: usize) -> Result<(), Status> {
    if expected == got {
        return Ok(());
    }
    let text = format!("Wrong input: Vector dimension error: expected dim: {expected}, got {got}");
    Err(Status::invalid_argument(text))
}
