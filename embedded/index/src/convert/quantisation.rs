//! The kinds of quantisation: the conversion of a request to edge's form, and changes.

use qdrant_client::qdrant::binary_quantization_query_encoding::{Setting, Variant as QueryEncoding};
use qdrant_client::qdrant::quantization_config::Quantization;
use qdrant_client::qdrant::quantization_config_diff::Quantization as Diff;
use qdrant_client::qdrant::{
    BinaryQuantization, BinaryQuantizationEncoding, CompressionRatio, QuantizationConfig,
    QuantizationConfigDiff, TurboQuantBitSize,
};
use serde_json::{Value as Json, json};
use tonic::Status;

use super::object;
use super::payload_index::memory_json;

#[allow(deprecated)] // clients before 1.19 say `always_ram`, not `memory`
pub(super) fn to_json(config: QuantizationConfig) -> Result<Option<Json>, Status> {
    Ok(match config.quantization {
        None => None,
        Some(Quantization::Scalar(scalar)) => Some(json!({"scalar": object([
            ("type", Some(json!("int8"))),
            ("quantile", scalar.quantile.map(|quantile| json!(quantile))),
            ("always_ram", scalar.always_ram.map(Json::Bool)),
            ("memory", memory_json(scalar.memory)),
        ])})),
        Some(Quantization::Product(product)) => Some(json!({"product": object([
            ("compression", Some(json!(compression(product.compression)?))),
            ("always_ram", product.always_ram.map(Json::Bool)),
            ("memory", memory_json(product.memory)),
        ])})),
        Some(Quantization::Binary(binary)) => Some(binary_json(binary)?),
        Some(Quantization::Turboquant(turbo)) => Some(json!({"turbo": object([
            ("bits", turbo.bits.map(bits).transpose()?.map(|bits| json!(bits))),
            ("always_ram", turbo.always_ram.map(Json::Bool)),
            ("memory", memory_json(turbo.memory)),
        ])})),
    })
}

#[allow(deprecated)] // clients before 1.19 say `always_ram`, not `memory`
fn binary_json(binary: BinaryQuantization) -> Result<Json, Status> {
    let query = binary.query_encoding.and_then(|encoding| encoding.variant);
    Ok(json!({"binary": object([
        ("encoding", binary.encoding.map(encoding).transpose()?.map(|encoding| json!(encoding))),
        ("query_encoding", query.map(query_encoding).transpose()?.map(|encoding| json!(encoding))),
        ("always_ram", binary.always_ram.map(Json::Bool)),
        ("memory", memory_json(binary.memory)),
    ])}))
}

fn encoding(encoding: i32) -> Result<&'static str, Status> {
    match BinaryQuantizationEncoding::try_from(encoding) {
        Ok(BinaryQuantizationEncoding::OneBit) => Ok("one_bit"),
        Ok(BinaryQuantizationEncoding::TwoBits) => Ok("two_bits"),
        Ok(BinaryQuantizationEncoding::OneAndHalfBits) => Ok("one_and_half_bits"),
        Err(_) => Err(Status::invalid_argument("unknown encoding of binary quantisation")),
    }
}

fn query_encoding(variant: QueryEncoding) -> Result<&'static str, Status> {
    let QueryEncoding::Setting(setting) = variant;
    match Setting::try_from(setting) {
        Ok(Setting::Default) => Ok("default"),
        Ok(Setting::Binary) => Ok("binary"),
        Ok(Setting::Scalar4Bits) => Ok("scalar4bits"),
        Ok(Setting::Scalar8Bits) => Ok("scalar8bits"),
        Err(_) => Err(Status::invalid_argument("unknown query encoding of binary quantisation")),
    }
}

fn bits(bits: i32) -> Result<&'static str, Status> {
    match TurboQuantBitSize::try_from(bits) {
        Ok(TurboQuantBitSize::Bits1) => Ok("bits1"),
        Ok(TurboQuantBitSize::Bits15) => Ok("bits1_5"),
        Ok(TurboQuantBitSize::Bits2) => Ok("bits2"),
        Ok(TurboQuantBitSize::Bits4) => Ok("bits4"),
        Ok(TurboQuantBitSize::Bits8) => Ok("bits8"),
        Err(_) => Err(Status::invalid_argument("unknown bit size of TurboQuant")),
    }
}

fn compression(ratio: i32) -> Result<&'static str, Status> {
    let ratio =
        CompressionRatio::try_from(ratio).map_err(|_| Status::invalid_argument("unknown compression"))?;
    Ok(ratio.as_str_name())
}

/// Returns the quantisation after a change. Edge can switch from one kind to another, but not back
/// to none.
pub(super) fn changed(diff: QuantizationConfigDiff) -> Result<Option<QuantizationConfig>, Status> {
    let quantization = match diff.quantization {
        None => return Ok(None),
        Some(Diff::Scalar(scalar)) => Quantization::Scalar(scalar),
        Some(Diff::Product(product)) => Quantization::Product(product),
        Some(Diff::Binary(binary)) => Quantization::Binary(binary),
        Some(Diff::Turboquant(turbo)) => Quantization::Turboquant(turbo),
        Some(Diff::Disabled(_)) => {
            return Err(Status::unimplemented(
                "the embedded index cannot take quantisation away again; make a new collection without it",
            ));
        }
    };
    Ok(Some(QuantizationConfig { quantization: Some(quantization) }))
}
