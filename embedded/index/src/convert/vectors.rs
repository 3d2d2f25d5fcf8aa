//! Vectors of points: dense, sparse or multi-vector, named or unnamed.

use std::collections::HashMap;

use qdrant_client::qdrant::vectors::VectorsOptions;
use qdrant_client::qdrant::vectors_output::VectorsOptions as OutputOptions;
use qdrant_client::qdrant::with_vectors_selector::SelectorOptions;
use qdrant_client::qdrant::{
    DenseVector, MultiDenseVector, NamedVectors, NamedVectorsOutput, SparseVector, Vector, VectorOutput,
    Vectors, VectorsOutput, WithVectorsSelector, vector, vector_output,
};
use qdrant_edge::{
    DEFAULT_VECTOR_NAME, SparseVector as EdgeSparse, TypedMultiDenseVector, VectorInternal, VectorPersisted,
    VectorStructInternal, VectorStructPersisted, WithVector,
};
use tonic::Status;

pub(crate) type Named = HashMap<String, VectorPersisted>;

/// Converts a point's vectors, keyed by name. The unnamed vector has an empty name.
pub(crate) fn to_edge(vectors: Option<Vectors>) -> Result<Named, Status> {
    match vectors.and_then(|vectors| vectors.vectors_options) {
        Some(VectorsOptions::Vector(vector)) => {
            Ok(HashMap::from([(DEFAULT_VECTOR_NAME.to_owned(), persisted(vector)?)]))
        }
        Some(VectorsOptions::Vectors(NamedVectors { vectors })) => {
            vectors.into_iter().map(|(name, vector)| Ok((name, persisted(vector)?))).collect()
        }
        None => Ok(HashMap::new()),
    }
}

/// Converts vectors to the form in which edge accepts a point's vectors.
pub(crate) fn into_struct(mut named: Named) -> VectorStructPersisted {
    if named.len() == 1
        && let Some(VectorPersisted::Dense(_)) = named.get(DEFAULT_VECTOR_NAME)
        && let Some(VectorPersisted::Dense(dense)) = named.remove(DEFAULT_VECTOR_NAME)
    {
        return VectorStructPersisted::Single(dense);
    }
    VectorStructPersisted::Named(named)
}

#[allow(deprecated)] // clients before 1.16 fill the old fields only
fn persisted(vector: Vector) -> Result<VectorPersisted, Status> {
    use vector::Vector as Kind;
    match vector.vector {
        Some(Kind::Dense(dense)) => Ok(VectorPersisted::Dense(dense.data)),
        Some(Kind::Sparse(sparse)) => {
            Ok(VectorPersisted::Sparse(sparse_to_edge(sparse.indices, sparse.values)?))
        }
        Some(Kind::MultiDense(multi)) => Ok(VectorPersisted::MultiDense(matrix(multi.vectors)?)),
        Some(Kind::Document(_) | Kind::Image(_) | Kind::Object(_)) => Err(Status::unimplemented(
            "the embedded index does not embed: send vectors, not documents or images",
        )),
        None => match (vector.indices, vector.vectors_count) {
            (Some(indices), _) => Ok(VectorPersisted::Sparse(sparse_to_edge(indices.data, vector.data)?)),
            (None, Some(count)) if count > 0 => {
                let size = vector.data.len() / count as usize;
                let rows =
                    vector.data.chunks(size.max(1)).map(|row| DenseVector { data: row.to_vec() }).collect();
                Ok(VectorPersisted::MultiDense(matrix(rows)?))
            }
            _ => Ok(VectorPersisted::Dense(vector.data)),
        },
    }
}

pub(super) fn sparse_to_edge(indices: Vec<u32>, values: Vec<f32>) -> Result<EdgeSparse, Status> {
    EdgeSparse::new(indices, values)
        .map_err(|error| Status::invalid_argument(format!("a sparse vector is malformed: {error}")))
}

fn matrix(rows: Vec<DenseVector>) -> Result<Vec<Vec<f32>>, Status> {
    let rows: Vec<_> = rows.into_iter().map(|row| row.data).collect();
    match rows.first() {
        Some(first) if rows.iter().all(|row| row.len() == first.len()) => Ok(rows),
        _ => Err(Status::invalid_argument("a multi-vector is empty or its rows differ in length")),
    }
}

pub(super) fn multi_to_edge(rows: Vec<DenseVector>) -> Result<TypedMultiDenseVector<f32>, Status> {
    TypedMultiDenseVector::try_from_matrix(matrix(rows)?)
        .map_err(|error| Status::invalid_argument(format!("a multi-vector is malformed: {error}")))
}

pub(crate) fn from_edge(vectors: Option<VectorStructInternal>) -> Option<VectorsOutput> {
    let options = match vectors? {
        VectorStructInternal::Single(dense) => OutputOptions::Vector(output(VectorInternal::Dense(dense))),
        VectorStructInternal::MultiDense(multi) => {
            OutputOptions::Vector(output(VectorInternal::MultiDense(multi)))
        }
        VectorStructInternal::Named(named) => {
            let vectors = named.into_iter().map(|(name, vector)| (name, output(vector))).collect();
            OutputOptions::Vectors(NamedVectorsOutput { vectors })
        }
    };
    Some(VectorsOutput { vectors_options: Some(options) })
}

// Clients before 1.16 read the deprecated field only. Dense vectors go there too, as in Qdrant.
#[allow(deprecated)]
fn output(vector: VectorInternal) -> VectorOutput {
    use vector_output::Vector as Kind;
    let kind = match vector {
        VectorInternal::Dense(data) => Kind::Dense(DenseVector { data }),
        VectorInternal::Sparse(sparse) => {
            Kind::Sparse(SparseVector { values: sparse.values, indices: sparse.indices })
        }
        VectorInternal::MultiDense(multi) => {
            let vectors = multi.into_multi_vectors().into_iter().map(|data| DenseVector { data }).collect();
            Kind::MultiDense(MultiDenseVector { vectors })
        }
    };
    VectorOutput { vector: Some(kind), ..Default::default() }
}

pub(crate) fn selector_to_edge(selector: Option<WithVectorsSelector>) -> WithVector {
    match selector.and_then(|selector| selector.selector_options) {
        None => WithVector::Bool(false),
        Some(SelectorOptions::Enable(enable)) => WithVector::Bool(enable),
        Some(SelectorOptions::Include(include)) => WithVector::Selector(include.names),
    }
}
