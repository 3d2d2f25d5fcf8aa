//! A complete network: the graph, and its weights separate from it, since a protobuf message holds
//! at most 2 GiB. ONNX Runtime reads the weights from our memory; a file includes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::value::{DynValue, Tensor};
use prost::Message;

use super::failed;
use super::proto::{self, EXTERNAL, Entry, FLOAT, INT8, INT64};
use crate::ModelError;

/// The maximum size of a protobuf message, less some room for the graph.
pub(super) const MESSAGE: usize = (2 << 30) - (1 << 20);

/// Constants of at least this many bytes are kept separate from the graph. Constants that define
/// shapes must be in it.
const BESIDE: usize = 4096;

/// Large constants by name, in ONNX Runtime's form.
pub(super) type Weights = Vec<(String, Arc<DynValue>)>;

#[derive(Debug)]
pub(super) struct Constant {
    pub dims: Vec<usize>,
    pub values: Values,
}

#[derive(Debug)]
pub(super) enum Values {
    F32(Vec<f32>),
    I8(Vec<i8>),
    I64(Vec<i64>),
}

/// A network whose graph contains only the sizes of its large constants.
#[derive(Debug)]
pub(crate) struct Model {
    network: proto::Model,
    constants: BTreeMap<String, Constant>,
}

impl Model {
    /// `network` must have no constants.
    pub(super) fn new(network: proto::Model, constants: BTreeMap<String, Constant>) -> Self {
        Self { network, constants }
    }

    /// The size of all constants in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.constants.values().map(Constant::bytes).sum()
    }

    /// Returns whether an input has a size that is only known at run time.
    pub(super) fn has_open_sizes(&self) -> bool {
        let inputs = self.network.graph.iter().flat_map(|graph| &graph.input);
        let types = inputs.filter_map(|input| input.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref());
        types.flat_map(|shape| &shape.dim).any(|size| size.dim_value.is_none())
    }

    /// Returns the ONNX file.
    ///
    /// # Errors
    /// Fails if the network is larger than a protobuf message may be.
    pub(super) fn into_file(self) -> Result<Vec<u8>, ModelError> {
        if self.bytes() > MESSAGE {
            return Err(ModelError::GraphTooLarge { what: "an ONNX file", bytes: self.bytes() });
        }
        let Self { mut network, constants } = self;
        let graph = network.graph.get_or_insert_default();
        graph.initializer = constants.into_iter().map(|(name, constant)| constant.within(name)).collect();
        Ok(network.encode_to_vec())
    }

    /// Returns the graph as a file with only its small constants, and the large constants by name.
    pub(super) fn into_parts(self) -> Result<(Vec<u8>, Weights), ModelError> {
        let Self { mut network, constants } = self;
        let graph = network.graph.get_or_insert_default();
        let mut beside = Vec::new();
        for (name, constant) in constants {
            if constant.bytes() < BESIDE || matches!(constant.values, Values::I64(_)) {
                graph.initializer.push(constant.within(name));
            } else {
                graph.initializer.push(constant.announced(name.clone()));
                beside.push((name, Arc::new(constant.into_value()?)));
            }
        }
        Ok((network.encode_to_vec(), beside))
    }
}

impl Values {
    fn data_type(&self) -> i32 {
        match self {
            Self::F32(_) => FLOAT,
            Self::I8(_) => INT8,
            Self::I64(_) => INT64,
        }
    }
}

impl Constant {
    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Values::F32(values) => 4 * values.len(),
            Values::I8(values) => values.len(),
            Values::I64(values) => 8 * values.len(),
        }
    }

    fn tensor(&self, name: String) -> proto::Tensor {
        proto::Tensor {
            dims: self.dims.iter().map(|&size| size as i64).collect(),
            data_type: Some(self.values.data_type()),
            name: Some(name),
            ..Default::default()
        }
    }

    fn within(&self, name: String) -> proto::Tensor {
        let raw_data = match &self.values {
            Values::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::I8(values) => values.iter().map(|&value| value as u8).collect(),
            Values::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        proto::Tensor { raw_data: Some(raw_data), ..self.tensor(name) }
    }

    fn announced(&self, name: String) -> proto::Tensor {
        let external_data = vec![
            Entry::new("location", "memory"),
            Entry::new("offset", 0),
            Entry::new("length", self.bytes()),
        ];
        proto::Tensor { external_data, data_location: Some(EXTERNAL), ..self.tensor(name) }
    }

    fn into_value(self) -> Result<DynValue, ModelError> {
        let dims = self.dims;
        match self.values {
            Values::F32(values) => Tensor::from_array((dims, values)).map(|tensor| tensor.into_dyn()),
            Values::I8(values) => Tensor::from_array((dims, values)).map(|tensor| tensor.into_dyn()),
            Values::I64(values) => Tensor::from_array((dims, values)).map(|tensor| tensor.into_dyn()),
        }
        .map_err(failed)
    }
}
