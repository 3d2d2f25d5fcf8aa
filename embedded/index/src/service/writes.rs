//! Writes of points: converts messages to the operations that edge applies.

use std::collections::HashMap;

use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::points_update_operation::Operation;
use qdrant_client::qdrant::{
    Filter, PointStruct, PointVectors, PointsSelector, UpdateMode, Value, VectorsSelector,
};
use qdrant_edge::{
    ConditionalInsertOperation, DeletePayloadOp, Filter as EdgeFilter, PayloadOps, PointId as EdgeId,
    PointInsertOperations, PointOperations, PointStructPersisted, PointVectorsPersisted, SetPayloadOp,
    UpdateMode as EdgeMode, UpdateOperation, UpdateVectorsOp, VectorOperations,
};
use tonic::Status;

use crate::convert::{filter, ids, path, payload, vectors};
use crate::shard::Shape;
use crate::status::unimplemented;

/// Maximum number of points in a log entry. A replay reads an entry as a whole.
const POINTS_AN_OPERATION: usize = 500;

type Operations = Vec<UpdateOperation>;

/// The points that a message selects.
enum Selected {
    Ids(Vec<EdgeId>),
    Filter(EdgeFilter),
}

fn selected(selector: Option<PointsSelector>) -> Result<Selected, Status> {
    match selector.and_then(|selector| selector.points_selector_one_of) {
        Some(PointsSelectorOneOf::Points(list)) => Ok(Selected::Ids(ids::id_list_to_edge(list)?)),
        Some(PointsSelectorOneOf::Filter(by)) => {
            Ok(Selected::Filter(filter::to_edge(Some(by))?.unwrap_or_default()))
        }
        None => Err(Status::invalid_argument("say which points: by their ids or by a filter")),
    }
}

pub(super) fn upsert(
    points: Vec<PointStruct>,
    update_filter: Option<Filter>,
    mode: Option<i32>,
    shape: &Shape,
) -> Result<Operations, Status> {
    let condition = filter::to_edge(update_filter)?;
    let mode = match mode.map(UpdateMode::try_from) {
        None | Some(Ok(UpdateMode::Upsert)) => None,
        Some(Ok(UpdateMode::InsertOnly)) => Some(EdgeMode::InsertOnly),
        Some(Ok(UpdateMode::UpdateOnly)) => Some(EdgeMode::UpdateOnly),
        Some(Err(_)) => return Err(Status::invalid_argument("unknown update mode")),
    };
    let points = points.into_iter().map(|point| to_edge(point, shape)).collect::<Result<Vec<_>, _>>()?;
    let operation = |points: Vec<PointStructPersisted>| {
        let points = PointInsertOperations::PointsList(points);
        UpdateOperation::PointOperation(match (&condition, mode) {
            (None, None) => PointOperations::UpsertPoints(points),
            (condition, update_mode) => {
                PointOperations::UpsertPointsConditional(ConditionalInsertOperation {
                    points_op: points,
                    condition: condition.clone().unwrap_or_default(),
                    update_mode,
                })
            }
        })
    };
    Ok(chunks(points).map(operation).collect())
}

fn chunks<T>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<_> = items.by_ref().take(POINTS_AN_OPERATION).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn to_edge(point: PointStruct, shape: &Shape) -> Result<PointStructPersisted, Status> {
    let named = vectors::to_edge(point.vectors)?;
    shape.check(&named)?;
    Ok(PointStructPersisted {
        id: ids::to_edge(point.id)?,
        vector: vectors::into_struct(named),
        payload: Some(payload::to_edge(point.payload)),
    })
}

pub(super) fn delete(selector: Option<PointsSelector>) -> Result<Operations, Status> {
    let operation = match selected(selector)? {
        Selected::Ids(ids) => PointOperations::DeletePoints { ids },
        Selected::Filter(filter) => PointOperations::DeletePointsByFilter(filter),
    };
    Ok(vec![UpdateOperation::PointOperation(operation)])
}

/// Sets the given fields. With `overwrite` they replace the whole payload.
pub(super) fn set_payload(
    fields: HashMap<String, Value>,
    selector: Option<PointsSelector>,
    key: Option<String>,
    overwrite: bool,
) -> Result<Operations, Status> {
    let (points, filter) = split(selected(selector)?);
    let key = key.as_deref().map(path).transpose()?;
    let set = SetPayloadOp { payload: payload::to_edge(fields), points, filter, key };
    let operation = if overwrite { PayloadOps::OverwritePayload(set) } else { PayloadOps::SetPayload(set) };
    Ok(vec![UpdateOperation::PayloadOperation(operation)])
}

pub(super) fn delete_payload(
    keys: Vec<String>,
    selector: Option<PointsSelector>,
) -> Result<Operations, Status> {
    let keys = keys.iter().map(|key| path(key)).collect::<Result<_, _>>()?;
    let (points, filter) = split(selected(selector)?);
    let operation = PayloadOps::DeletePayload(DeletePayloadOp { keys, points, filter });
    Ok(vec![UpdateOperation::PayloadOperation(operation)])
}

pub(super) fn clear_payload(selector: Option<PointsSelector>) -> Result<Operations, Status> {
    let operation = match selected(selector)? {
        Selected::Ids(points) => PayloadOps::ClearPayload { points },
        Selected::Filter(filter) => PayloadOps::ClearPayloadByFilter(filter),
    };
    Ok(vec![UpdateOperation::PayloadOperation(operation)])
}

pub(super) fn update_vectors(
    points: Vec<PointVectors>,
    update_filter: Option<Filter>,
    shape: &Shape,
) -> Result<Operations, Status> {
    let update_filter = filter::to_edge(update_filter)?;
    let point = |point: PointVectors| -> Result<PointVectorsPersisted, Status> {
        let named = vectors::to_edge(point.vectors)?;
        shape.check(&named)?;
        Ok(PointVectorsPersisted { id: ids::to_edge(point.id)?, vector: vectors::into_struct(named) })
    };
    let points = points.into_iter().map(point).collect::<Result<_, _>>()?;
    let operation = VectorOperations::UpdateVectors(UpdateVectorsOp { points, update_filter });
    Ok(vec![UpdateOperation::VectorOperation(operation)])
}

pub(super) fn delete_vectors(
    selector: Option<PointsSelector>,
    names: Option<VectorsSelector>,
    shape: &Shape,
) -> Result<Operations, Status> {
    let names = names.unwrap_or_default().names;
    names.iter().try_for_each(|name| shape.check_name(name))?;
    let operation = match selected(selector)? {
        Selected::Ids(points) => VectorOperations::DeleteVectors(points.into(), names),
        Selected::Filter(filter) => VectorOperations::DeleteVectorsByFilter(filter, names),
    };
    Ok(vec![UpdateOperation::VectorOperation(operation)])
}

/// Converts one operation of a batch.
pub(super) fn of_batch(operation: Operation, shape: &Shape) -> Result<Operations, Status> {
    match operation {
        Operation::Upsert(list) => upsert(list.points, list.update_filter, list.update_mode, shape),
        Operation::DeletePoints(delete_points) => delete(delete_points.points),
        Operation::SetPayload(set) => set_payload(set.payload, set.points_selector, set.key, false),
        Operation::OverwritePayload(set) => set_payload(set.payload, set.points_selector, set.key, true),
        Operation::DeletePayload(keys) => delete_payload(keys.keys, keys.points_selector),
        Operation::ClearPayload(clear) => clear_payload(clear.points),
        Operation::UpdateVectors(update) => update_vectors(update.points, update.update_filter, shape),
        Operation::DeleteVectors(vectors) => delete_vectors(vectors.points_selector, vectors.vectors, shape),
        #[allow(deprecated)] // clients before 1.2
        Operation::DeleteDeprecated(selector) => delete(Some(selector)),
        #[allow(deprecated)] // clients before 1.2
        Operation::ClearPayloadDeprecated(selector) => clear_payload(Some(selector)),
        #[allow(unreachable_patterns)] // a kind that a later client adds
        _ => unimplemented("such an operation in Points.UpdateBatch"),
    }
}

fn split(selected: Selected) -> (Option<Vec<EdgeId>>, Option<EdgeFilter>) {
    match selected {
        Selected::Ids(points) => (Some(points), None),
        Selected::Filter(filter) => (None, Some(filter)),
    }
}
