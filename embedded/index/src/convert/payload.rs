//! Payloads, and the selectors of the payload fields to return.

use std::collections::HashMap;

use qdrant_client::qdrant::with_payload_selector::SelectorOptions;
use qdrant_client::qdrant::{OrderValue, Value, WithPayloadSelector, order_value};
use qdrant_edge::{
    OrderValue as EdgeOrderValue, Payload, PayloadSelector, PayloadSelectorExclude, PayloadSelectorInclude,
    WithPayloadInterface,
};
use tonic::Status;

use super::path;

pub(crate) fn to_edge(fields: HashMap<String, Value>) -> Payload {
    Payload(fields.into_iter().map(|(key, value)| (key, value.into())).collect())
}

pub(crate) fn from_edge(payload: Option<Payload>) -> HashMap<String, Value> {
    let fields = payload.map(|payload| payload.0).unwrap_or_default();
    fields.into_iter().map(|(key, value)| (key, value.into())).collect()
}

/// Converts a payload selector. `default` applies to a request without a selector and differs
/// between methods.
pub(crate) fn selector_to_edge(
    selector: Option<WithPayloadSelector>,
    default: bool,
) -> Result<WithPayloadInterface, Status> {
    let paths = |fields: Vec<String>| fields.iter().map(|field| path(field)).collect::<Result<Vec<_>, _>>();
    Ok(match selector.and_then(|selector| selector.selector_options) {
        None => WithPayloadInterface::Bool(default),
        Some(SelectorOptions::Enable(enable)) => WithPayloadInterface::Bool(enable),
        Some(SelectorOptions::Include(include)) => {
            let include = paths(include.fields)?;
            WithPayloadInterface::Selector(PayloadSelector::Include(PayloadSelectorInclude { include }))
        }
        Some(SelectorOptions::Exclude(exclude)) => {
            let exclude = paths(exclude.fields)?;
            WithPayloadInterface::Selector(PayloadSelector::Exclude(PayloadSelectorExclude { exclude }))
        }
    })
}

pub(crate) fn order_value_from_edge(value: EdgeOrderValue) -> OrderValue {
    let variant = match value {
        EdgeOrderValue::Int(int) => order_value::Variant::Int(int),
        EdgeOrderValue::Float(float) => order_value::Variant::Float(float),
    };
    OrderValue { variant: Some(variant) }
}
