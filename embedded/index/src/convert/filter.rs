//! Filters and their conditions.

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::{
    Condition, DatetimeRange, FieldCondition, Filter, GeoBoundingBox, GeoLineString, GeoPoint, GeoPolygon,
    GeoRadius, HasIdCondition, Match, MinShould, NestedCondition, Range, ValuesCount,
};
use qdrant_edge::Filter as EdgeFilter;
use serde_json::{Value as Json, json};
use tonic::Status;

use super::{from_json, ids, object, path};

/// Converts a filter to edge's form; None stays None.
pub(crate) fn to_edge(filter: Option<Filter>) -> Result<Option<EdgeFilter>, Status> {
    filter.map(|filter| from_json("the filter", filter_json(filter)?)).transpose()
}

fn filter_json(filter: Filter) -> Result<Json, Status> {
    let Filter { should, must, must_not, min_should } = filter;
    Ok(object([
        ("should", conditions_json(should)?),
        ("must", conditions_json(must)?),
        ("must_not", conditions_json(must_not)?),
        ("min_should", min_should.map(min_should_json).transpose()?),
    ]))
}

fn conditions_json(conditions: Vec<Condition>) -> Result<Option<Json>, Status> {
    if conditions.is_empty() {
        return Ok(None);
    }
    Ok(Some(Json::Array(conditions.into_iter().map(condition_json).collect::<Result<_, _>>()?)))
}

fn min_should_json(min_should: MinShould) -> Result<Json, Status> {
    let conditions = min_should.conditions.into_iter().map(condition_json).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({"conditions": conditions, "min_count": min_should.min_count}))
}

fn condition_json(condition: Condition) -> Result<Json, Status> {
    use ConditionOneOf as One;
    match condition.condition_one_of {
        None => Err(Status::invalid_argument("the filter holds an empty condition")),
        Some(One::Field(field)) => field_json(field),
        Some(One::IsEmpty(empty)) => Ok(json!({"is_empty": {"key": checked(empty.key)?}})),
        Some(One::IsNull(null)) => Ok(json!({"is_null": {"key": checked(null.key)?}})),
        Some(One::HasId(HasIdCondition { has_id })) => Ok(json!({"has_id": ids::list_to_edge(has_id)?})),
        Some(One::HasVector(has)) => Ok(json!({"has_vector": has.has_vector})),
        Some(One::Slice(slice)) => Ok(json!({"slice": {"total": slice.total, "index": slice.index}})),
        Some(One::Filter(filter)) => filter_json(filter),
        Some(One::Nested(NestedCondition { key, filter })) => {
            let filter = filter_json(filter.unwrap_or_default())?;
            Ok(json!({"nested": {"key": checked(key)?, "filter": filter}}))
        }
    }
}

fn field_json(field: FieldCondition) -> Result<Json, Status> {
    if field.range.is_some() && field.datetime_range.is_some() {
        return Err(Status::invalid_argument(
            "a condition has a range and a datetime range; give one of them",
        ));
    }
    let range = field.range.map(range_json).transpose()?.or(field.datetime_range.map(datetime_range_json));
    Ok(object([
        ("key", Some(Json::String(checked(field.key)?))),
        ("match", field.r#match.map(match_json).transpose()?),
        ("range", range),
        ("geo_bounding_box", field.geo_bounding_box.map(bounding_box_json).transpose()?),
        ("geo_radius", field.geo_radius.map(radius_json).transpose()?),
        ("geo_polygon", field.geo_polygon.map(polygon_json).transpose()?),
        ("values_count", field.values_count.map(values_count_json)),
        ("is_empty", field.is_empty.map(Json::Bool)),
        ("is_null", field.is_null.map(Json::Bool)),
    ]))
}

/// Checks that a key is a path. Edge's own error message would not name the key.
fn checked(key: String) -> Result<String, Status> {
    path(&key).map(|_| key)
}

fn match_json(matching: Match) -> Result<Json, Status> {
    use MatchValue as Value;
    Ok(match matching.match_value {
        None => return Err(Status::invalid_argument("a match condition has no value")),
        Some(Value::Keyword(keyword)) => json!({"value": keyword}),
        Some(Value::Integer(integer)) => json!({"value": integer}),
        Some(Value::Boolean(boolean)) => json!({"value": boolean}),
        Some(Value::Text(text)) => json!({"text": text}),
        Some(Value::TextAny(text)) => json!({"text_any": text}),
        Some(Value::Phrase(phrase)) => json!({"phrase": phrase}),
        Some(Value::Prefix(prefix)) => json!({"prefix": prefix}),
        Some(Value::Substring(substring)) => json!({"substring": substring}),
        Some(Value::Keywords(any)) => json!({"any": any.strings}),
        Some(Value::Integers(any)) => json!({"any": any.integers}),
        Some(Value::ExceptKeywords(except)) => json!({"except": except.strings}),
        Some(Value::ExceptIntegers(except)) => json!({"except": except.integers}),
    })
}

fn range_json(range: Range) -> Result<Json, Status> {
    let bounds = [range.lt, range.gt, range.gte, range.lte];
    if bounds.iter().flatten().any(|bound| !bound.is_finite()) {
        return Err(Status::invalid_argument("a range has a bound that is not finite"));
    }
    let Range { lt, gt, gte, lte } = range;
    Ok(json!({"lt": lt, "gt": gt, "gte": gte, "lte": lte}))
}

fn datetime_range_json(range: DatetimeRange) -> Json {
    json!({"lt": text(range.lt), "gt": text(range.gt), "gte": text(range.gte), "lte": text(range.lte)})
}

/// Formats a protobuf timestamp, whose `Display` is RFC 3339.
fn text(stamp: Option<impl ToString>) -> Option<String> {
    stamp.map(|stamp| stamp.to_string())
}

fn values_count_json(count: ValuesCount) -> Json {
    json!({"lt": count.lt, "gt": count.gt, "gte": count.gte, "lte": count.lte})
}

fn point_json(point: Option<GeoPoint>) -> Result<Json, Status> {
    let point = point.ok_or_else(|| Status::invalid_argument("a geo condition lacks a point"))?;
    Ok(json!({"lon": point.lon, "lat": point.lat}))
}

fn bounding_box_json(bounds: GeoBoundingBox) -> Result<Json, Status> {
    Ok(json!({"top_left": point_json(bounds.top_left)?, "bottom_right": point_json(bounds.bottom_right)?}))
}

fn radius_json(radius: GeoRadius) -> Result<Json, Status> {
    Ok(json!({"center": point_json(radius.center)?, "radius": radius.radius}))
}

fn polygon_json(polygon: GeoPolygon) -> Result<Json, Status> {
    let line = |line: GeoLineString| -> Result<Json, Status> {
        let points =
            line.points.into_iter().map(|point| point_json(Some(point))).collect::<Result<Vec<_>, _>>()?;
        Ok(json!({"points": points}))
    };
    let exterior = polygon.exterior.ok_or_else(|| Status::invalid_argument("a polygon has no exterior"))?;
    let interiors = polygon.interiors.into_iter().map(line).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({"exterior": line(exterior)?, "interiors": interiors}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(filter: Filter) -> EdgeFilter {
        to_edge(Some(filter)).unwrap().unwrap()
    }

    #[test]
    fn every_kind_of_match_is_read_as_its_own_kind() {
        let values = [
            (MatchValue::Keyword("a".into()), "Value("),
            (MatchValue::Integer(4), "Value("),
            (MatchValue::Boolean(true), "Value("),
            (MatchValue::Text("a".into()), "Text("),
            (MatchValue::TextAny("a".into()), "TextAny("),
            (MatchValue::Phrase("a".into()), "Phrase("),
            (MatchValue::Prefix("a".into()), "Prefix("),
            (MatchValue::Substring("a".into()), "Substring("),
        ];
        for (value, kind) in values {
            let read = edge(Filter::must([Condition::matches("key", value)]));
            let text = format!("{read:?}");
            assert!(text.contains(&format!("Some({kind}")), "{kind} in {text}");
        }
    }

    #[test]
    fn an_invalid_key_path_is_named_in_the_error() {
        let error = to_edge(Some(Filter::must([Condition::is_null("a[")]))).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.message().contains("a["), "{error}");
    }

    #[test]
    fn nested_filters_keep_their_clauses() {
        let inner = Filter::must_not([Condition::has_id([7u64])]);
        let read =
            edge(Filter { should: vec![inner.into(), Condition::is_empty("x")], ..Default::default() });
        assert_eq!(read.should.map(|should| should.len()), Some(2));
        assert!(read.must.is_none());
    }

    #[test]
    fn a_datetime_range_is_read_as_dates() {
        let range =
            DatetimeRange { gte: Some("1970-01-01T00:00:00Z".parse().unwrap()), ..Default::default() };
        let text = format!("{:?}", edge(Filter::must([Condition::datetime_range("at", range)])));
        assert!(text.contains("DateTime"), "{text}");
    }
}
