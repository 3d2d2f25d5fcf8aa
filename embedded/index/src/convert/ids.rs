//! Point ids: an unsigned number or a UUID.

use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::{PointId, PointsIdsList};
use qdrant_edge::PointId as EdgeId;
use qdrant_edge::external::uuid::Uuid;
use tonic::Status;

pub(crate) fn to_edge(id: Option<PointId>) -> Result<EdgeId, Status> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Num(number)) => Ok(EdgeId::NumId(number)),
        Some(PointIdOptions::Uuid(text)) => match Uuid::parse_str(&text) {
            Ok(uuid) => Ok(EdgeId::Uuid(uuid)),
            Err(_) => Err(Status::invalid_argument(format!("the point id {text:?} is not a UUID"))),
        },
        None => Err(Status::invalid_argument("a point has no id; give a number or a UUID")),
    }
}

pub(crate) fn list_to_edge(ids: Vec<PointId>) -> Result<Vec<EdgeId>, Status> {
    ids.into_iter().map(|id| to_edge(Some(id))).collect()
}

pub(crate) fn id_list_to_edge(list: PointsIdsList) -> Result<Vec<EdgeId>, Status> {
    list_to_edge(list.ids)
}

pub(crate) fn from_edge(id: EdgeId) -> PointId {
    let options = match id {
        EdgeId::NumId(number) => PointIdOptions::Num(number),
        EdgeId::Uuid(uuid) => PointIdOptions::Uuid(uuid.hyphenated().to_string()),
    };
    PointId { point_id_options: Some(options) }
}
