//! Edge's errors as gRPC statuses, with the codes that a Qdrant server returns.

use qdrant_edge::OperationError;
use tonic::Status;

pub(crate) fn of_edge(error: OperationError) -> Status {
    let text = error.to_string();
    match error {
        OperationError::WrongVectorDimension { .. }
        | OperationError::VectorNameNotExists { .. }
        | OperationError::MalformedVectorBlob { .. }
        | OperationError::MalformedPayloadBlob { .. }
        | OperationError::TypeError { .. }
        | OperationError::TypeInferenceError { .. }
        | OperationError::ValidationError { .. }
        | OperationError::WrongSparse
        | OperationError::WrongMulti
        | OperationError::MissingRangeIndexForOrderBy { .. }
        | OperationError::MissingMapIndexForFacet { .. }
        | OperationError::VariableTypeError { .. }
        | OperationError::NonFiniteNumber { .. } => Status::invalid_argument(text),
        OperationError::PointIdError { .. } => Status::not_found(text),
        OperationError::Cancelled { .. } => Status::cancelled(text),
        OperationError::Timeout { .. } => Status::deadline_exceeded(text),
        OperationError::OutOfMemory { .. } => Status::resource_exhausted(text),
        OperationError::ServiceError { .. }
        | OperationError::InconsistentStorage { .. }
        | OperationError::FileNotFound { .. }
        | OperationError::OutOfAppendableCapacity { .. } => Status::internal(text),
    }
}

/// The status for requests to a collection that is closed.
pub(crate) fn stopped() -> Status {
    Status::unavailable("the collection is closed or being deleted")
}

/// Refuses a method that the embedded index does not support.
pub(crate) fn unimplemented<T>(method: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "the embedded index has no {method}; connect to a Qdrant server where it is needed"
    )))
}
