//! Builds an ONNX graph: layers as operators that ONNX Runtime and OpenVINO fuse. Values have
//! names; a layer takes names and returns the name of its result. It must not know networks.

use std::collections::BTreeMap;

use super::model::{Constant, Model, Values};
use super::proto::{self, Attribute, FLOAT, Node, ValueInfo};
use crate::ops::Activation;
use candle_core::Tensor;
use candle_nn::VarBuilder;

/// The operator set version: the first with LayerNormalization.
const OPSET: i64 = 17;
/// The value that, added to a score, makes the attention weight 0. It is finite in bf16 too.
const HIDDEN: f32 = -1e9;

/// The permutation from channels last to channels first. [`CHANNELS_LAST`] is its inverse.
pub(crate) const CHANNELS_FIRST: &[i64] = &[0, 3, 1, 2];
pub(crate) const CHANNELS_LAST: &[i64] = &[0, 2, 3, 1];

/// The name of a layer's result.
pub(crate) type Value = String;

type Result<T> = candle_core::Result<T>;

pub(crate) struct Graph {
    weights: VarBuilder<'static>,
    nodes: Vec<Node>,
    constants: BTreeMap<String, Constant>,
    /// True if linear layers multiply in 8 bits.
    int8: bool,
}

impl Graph {
    pub(crate) fn new(weights: VarBuilder<'static>, int8: bool) -> Self {
        Self { weights, nodes: Vec::new(), constants: BTreeMap::new(), int8 }
    }

    /// The size of all constants in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.constants.values().map(Constant::bytes).sum()
    }

    /// Finishes the graph and returns the network.
    pub(crate) fn finish(self, inputs: Vec<ValueInfo>, outputs: Vec<ValueInfo>) -> Model {
        let graph = proto::Graph {
            node: self.nodes,
            name: Some("unprompt".to_owned()),
            initializer: Vec::new(),
            input: inputs,
            output: outputs,
        };
        let opset = proto::OperatorSet { domain: Some(String::new()), version: Some(OPSET) };
        let producer_name = Some("unprompt".to_owned());
        let network = proto::Model {
            ir_version: Some(8),
            producer_name,
            graph: Some(graph),
            opset_import: vec![opset],
        };
        Model::new(network, self.constants)
    }

    /// Adds an operator and returns its first result.
    pub(crate) fn add(&mut self, operator: &str, inputs: &[&str], attributes: Vec<Attribute>) -> Value {
        self.operator(operator, inputs, attributes, 1).swap_remove(0)
    }

    /// Adds an operator and returns its results.
    fn operator(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attribute: Vec<Attribute>,
        results: usize,
    ) -> Vec<Value> {
        let name = format!("{}_{}", operator.to_lowercase(), self.nodes.len());
        let output: Vec<Value> = (0..results).map(|at| format!("{name}.{at}")).collect();
        let input = inputs.iter().map(|&input| input.to_owned()).collect();
        let (op_type, output_names) = (Some(operator.to_owned()), output.clone());
        self.nodes.push(Node { input, output: output_names, name: Some(name), op_type, attribute });
        output
    }

    /// Makes a value the output `name`.
    pub(crate) fn output(&mut self, value: &str, name: &str) {
        let identity = Node {
            input: vec![value.to_owned()],
            output: vec![name.to_owned()],
            name: Some(name.to_owned()),
            op_type: Some("Identity".to_owned()),
            attribute: Vec::new(),
        };
        self.nodes.push(identity);
    }

    fn constant(&mut self, name: &str, dims: &[usize], values: Values) -> Value {
        let constant = Constant { dims: dims.to_vec(), values };
        let known = self.constants.entry(name.to_owned()).or_insert(constant);
        debug_assert_eq!(known.dims, dims, "{name} is two constants");
        name.to_owned()
    }

    pub(crate) fn scalar(&mut self, value: f32) -> Value {
        self.floats(&format!("scalar {value}"), &[], vec![value])
    }

    pub(crate) fn integers(&mut self, values: &[i64]) -> Value {
        self.constant(&format!("integers {values:?}"), &[values.len()], Values::I64(values.to_vec()))
    }

    pub(crate) fn floats(&mut self, name: &str, dims: &[usize], values: Vec<f32>) -> Value {
        self.constant(name, dims, Values::F32(values))
    }

    /// Adds a weight of the model as a constant.
    pub(crate) fn weight(&mut self, name: &str, dims: &[usize]) -> Result<Value> {
        let tensor = self.weights.get(dims.to_vec(), name)?;
        Ok(self.floats(name, dims, tensor.flatten_all()?.to_vec1()?))
    }

    /// Returns the values of a weight, to compute a constant from them.
    pub(crate) fn values(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        self.weights.get(dims.to_vec(), name)?.flatten_all()?.to_vec1()
    }

    /// Applies the linear layer `name` without its bias to `x` [.., inputs].
    pub(crate) fn multiply(&mut self, x: &str, name: &str, inputs: usize, outputs: usize) -> Result<Value> {
        let tensor = self.weights.get((outputs, inputs), &format!("{name}.weight"))?;
        self.product(x, name, &tensor)
    }

    /// Multiplies `x` [.., inputs] by a matrix [outputs, inputs], which gets the name `name` in the
    /// graph.
    pub(crate) fn product(&mut self, x: &str, name: &str, matrix: &Tensor) -> Result<Value> {
        let (outputs, inputs) = matrix.dims2()?;
        let values: Vec<f32> = matrix.t()?.contiguous()?.flatten_all()?.to_vec1()?;
        if self.int8 {
            return Ok(self.product_int8(x, name, &values, outputs));
        }
        let weight = self.floats(&format!("{name}.weight"), &[inputs, outputs], values);
        Ok(self.add("MatMul", &[x, &weight], vec![]))
    }

    /// Multiplies with dynamic quantisation: a scale for each column of the weights, and one for
    /// all of `x`, which is computed at run time.
    fn product_int8(&mut self, x: &str, name: &str, values: &[f32], outputs: usize) -> Value {
        let mut scales = vec![f32::MIN_POSITIVE; outputs];
        for row in values.chunks_exact(outputs) {
            scales.iter_mut().zip(row).for_each(|(scale, value)| *scale = scale.max(value.abs() / 127.0));
        }
        let level = |(at, value): (usize, &f32)| (value / scales[at % outputs]).round() as i8;
        let levels = values.iter().enumerate().map(level).collect();
        let dims = [values.len() / outputs, outputs];
        let weight = self.constant(&format!("{name}.weight"), &dims, Values::I8(levels));
        let scales = self.floats(&format!("{name}.scales"), &[outputs], scales);
        let quantised = self.operator("DynamicQuantizeLinear", &[x], vec![], 3);
        let (levels, scale, zero) = (&quantised[0], &quantised[1], &quantised[2]);
        let product = self.add("MatMulInteger", &[levels, &weight, zero], vec![]);
        let product = self.add("Cast", &[&product], vec![Attribute::int("to", FLOAT.into())]);
        let scale = self.add("Mul", &[scale, &scales], vec![]);
        self.add("Mul", &[&product, &scale], vec![])
    }

    /// Applies the linear layer `name`, with its bias if it has one, to `x` [.., inputs].
    pub(crate) fn linear(&mut self, x: &str, name: &str, inputs: usize, outputs: usize) -> Result<Value> {
        let product = self.multiply(x, name, inputs, outputs)?;
        if !self.weights.contains_tensor(&format!("{name}.bias")) {
            return Ok(product);
        }
        let bias = self.weight(&format!("{name}.bias"), &[outputs])?;
        Ok(self.add("Add", &[&product, &bias], vec![]))
    }

    pub(crate) fn layer_norm(&mut self, x: &str, name: &str, width: usize, eps: f64) -> Result<Value> {
        let weight = self.weight(&format!("{name}.weight"), &[width])?;
        let bias = self.weight(&format!("{name}.bias"), &[width])?;
        let attributes = vec![Attribute::int("axis", -1), Attribute::float("epsilon", eps as f32)];
        Ok(self.add("LayerNormalization", &[x, &weight, &bias], attributes))
    }

    pub(crate) fn activation(&mut self, x: &str, activation: Activation) -> Value {
        match activation {
            Activation::None => x.to_owned(),
            Activation::Relu => self.add("Relu", &[x], vec![]),
            Activation::Silu => self.swish(x, 1.0),
            Activation::QuickGelu => self.swish(x, 1.702),
            Activation::Gelu => {
                let root = self.scalar(std::f32::consts::SQRT_2);
                let scaled = self.add("Div", &[x, &root], vec![]);
                let gate = self.add("Erf", &[&scaled], vec![]);
                self.gated(x, &gate)
            }
            Activation::GeluPytorchTanh => {
                let (three, share) = (self.scalar(3.0), self.scalar(0.044_715));
                let cube = self.add("Pow", &[x, &three], vec![]);
                let cube = self.add("Mul", &[&cube, &share], vec![]);
                let sum = self.add("Add", &[x, &cube], vec![]);
                let root = self.scalar((2.0 / std::f32::consts::PI).sqrt());
                let scaled = self.add("Mul", &[&sum, &root], vec![]);
                let gate = self.add("Tanh", &[&scaled], vec![]);
                self.gated(x, &gate)
            }
        }
    }

    /// x · sigmoid(slope · x)
    fn swish(&mut self, x: &str, slope: f32) -> Value {
        let slope = self.scalar(slope);
        let scaled = self.add("Mul", &[x, &slope], vec![]);
        let gate = self.add("Sigmoid", &[&scaled], vec![]);
        self.add("Mul", &[x, &gate], vec![])
    }

    /// x · (1 + gate) / 2
    fn gated(&mut self, x: &str, gate: &str) -> Value {
        let (one, half) = (self.scalar(1.0), self.scalar(0.5));
        let gate = self.add("Add", &[gate, &one], vec![]);
        let product = self.add("Mul", &[x, &gate], vec![]);
        self.add("Mul", &[&product, &half], vec![])
    }

    /// Adds attention with `heads` heads over [batch, length, width], with a mask [batch or 1, 1,
    /// length or 1, length] that is added to the scores. The number of keys may differ from the
    /// number of queries.
    pub(crate) fn attention(
        &mut self,
        [queries, keys, values]: [&str; 3],
        mask: Option<&str>,
        heads: usize,
        width: usize,
    ) -> Result<Value> {
        if heads == 0 || !width.is_multiple_of(heads) {
            candle_core::bail!("{heads} attention heads do not share a width of {width}");
        }
        let size = width / heads;
        let split = self.integers(&[0, 0, heads as i64, size as i64]);
        let joined = self.integers(&[0, 0, width as i64]);
        let mut part = |x: &str, order: &[i64]| {
            let x = self.add("Reshape", &[x, &split], vec![]);
            self.transpose(&x, order)
        };
        let (queries, keys) = (part(queries, &[0, 2, 1, 3]), part(keys, &[0, 2, 3, 1]));
        let values = part(values, &[0, 2, 1, 3]);
        let scale = self.scalar(1.0 / (size as f32).sqrt());
        let scores = self.add("MatMul", &[&queries, &keys], vec![]);
        let scores = self.add("Mul", &[&scores, &scale], vec![]);
        let scores = mask.map_or(scores.clone(), |mask| self.add("Add", &[&scores, mask], vec![]));
        let weights = self.add("Softmax", &[&scores], vec![Attribute::int("axis", -1)]);
        let mixed = self.add("MatMul", &[&weights, &values], vec![]);
        let mixed = self.transpose(&mixed, &[0, 2, 1, 3]);
        Ok(self.add("Reshape", &[&mixed, &joined], vec![]))
    }

    /// The length of `ids` [batch, length], as [1].
    pub(crate) fn length(&mut self, ids: &str) -> Value {
        let shape = self.add("Shape", &[ids], vec![]);
        let second = self.integers(&[1]);
        self.add("Gather", &[&shape, &second], vec![])
    }

    /// Converts a mask [batch, length] of ones and zeros to a mask that is added to scores, [batch,
    /// 1, 1, length].
    pub(crate) fn padding_mask(&mut self, mask: &str) -> Value {
        let (axes, one, hidden) = (self.integers(&[1, 2]), self.scalar(1.0), self.scalar(HIDDEN));
        let mask = self.add("Cast", &[mask], vec![Attribute::int("to", FLOAT.into())]);
        let mask = self.add("Unsqueeze", &[&mask, &axes], vec![]);
        let absent = self.add("Sub", &[&one, &mask], vec![]);
        self.add("Mul", &[&absent, &hidden], vec![])
    }

    /// Adds the convolution `name` over [batch, in, height, width], with its bias if it has one.
    /// `shape` is the weight's shape; `step` and `padding` apply to both sides.
    pub(crate) fn convolve(
        &mut self,
        x: &str,
        name: &str,
        shape: [usize; 4],
        (step, padding): (usize, usize),
        groups: usize,
    ) -> Result<Value> {
        let weight = self.weight(&format!("{name}.weight"), &shape)?;
        let bias = match self.weights.contains_tensor(&format!("{name}.bias")) {
            true => Some(self.weight(&format!("{name}.bias"), &shape[..1])?),
            false => None,
        };
        let inputs: Vec<&str> = [x, &weight].into_iter().chain(bias.as_deref()).collect();
        let attributes = vec![
            Attribute::ints("kernel_shape", &[shape[2] as i64, shape[3] as i64]),
            Attribute::ints("strides", &[step as i64; 2]),
            Attribute::ints("pads", &[padding as i64; 4]),
            Attribute::int("group", groups as i64),
        ];
        Ok(self.add("Conv", &inputs, attributes))
    }

    pub(crate) fn transpose(&mut self, x: &str, order: &[i64]) -> Value {
        self.add("Transpose", &[x], vec![Attribute::ints("perm", order)])
    }

    /// Embeds patches of `patch` x `patch` of pictures [batch, side, side, 3] by a convolution.
    /// Returns [batch, patches, width].
    pub(crate) fn patches(&mut self, pixels: &str, name: &str, patch: usize, width: usize) -> Result<Value> {
        let first = self.transpose(pixels, CHANNELS_FIRST);
        let grid = self.convolve(&first, name, [width, 3, patch, patch], (patch, 0), 1)?;
        let flat = self.integers(&[0, width as i64, -1]);
        let flat = self.add("Reshape", &[&grid, &flat], vec![]);
        Ok(self.transpose(&flat, &[0, 2, 1]))
    }

    /// Takes the mean over one axis, which is dropped.
    pub(crate) fn mean(&mut self, x: &str, axis: i64) -> Value {
        self.add("ReduceMean", &[x], vec![Attribute::ints("axes", &[axis]), Attribute::int("keepdims", 0)])
    }

    /// Divides each row by its norm.
    pub(crate) fn unit_rows(&mut self, x: &str) -> Value {
        let length = self.add("ReduceL2", &[x], vec![Attribute::ints("axes", &[-1])]);
        self.add("Div", &[x, &length], vec![])
    }

    /// Repeats a constant [1, rows, width] for each element of the batch of `x` [batch, ..].
    pub(crate) fn repeated(&mut self, rows: &str, x: &str) -> Value {
        let shape = self.add("Shape", &[x], vec![]);
        let (zero, ones) = (self.integers(&[0]), self.integers(&[1, 1]));
        let batch = self.add("Gather", &[&shape, &zero], vec![]);
        let wanted = self.add("Concat", &[&batch, &ones], vec![Attribute::int("axis", 0)]);
        self.add("Expand", &[rows, &wanted], vec![])
    }

    /// Prepends a constant row [1, 1, width] to the rows of each element of `x` [batch, rows,
    /// width].
    pub(crate) fn prepended(&mut self, row: &str, x: &str) -> Value {
        let rows = self.repeated(row, x);
        self.add("Concat", &[&rows, x], vec![Attribute::int("axis", 1)])
    }

    /// Adds a tensor's values as a constant.
    pub(crate) fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<Value> {
        Ok(self.floats(name, tensor.dims(), tensor.flatten_all()?.to_vec1()?))
    }

    /// Selects the elements at `places` along an axis of `x`.
    pub(crate) fn gather(&mut self, x: &str, places: &str, axis: i64) -> Value {
        self.add("Gather", &[x, places], vec![Attribute::int("axis", axis)])
    }

    /// Selects all rows but the first of each element of `x` [batch, rows, width].
    pub(crate) fn rows_after_first(&mut self, x: &str) -> Value {
        let (one, end) = (self.integers(&[1]), self.integers(&[i64::MAX]));
        self.add("Slice", &[x, &one, &end, &one], vec![])
    }

    /// Selects the first row of each element of `x` [batch, rows, width]. Returns [batch, width].
    pub(crate) fn first_row(&mut self, x: &str) -> Value {
        let zero = self.integer(0);
        self.gather(x, &zero, 1)
    }

    fn integer(&mut self, value: i64) -> Value {
        self.constant(&format!("integer {value}"), &[], Values::I64(vec![value]))
    }

    /// The weights of the graph.
    pub(crate) fn weights(&self) -> &VarBuilder<'static> {
        &self.weights
    }

    /// Continues the graph with other weights.
    pub(crate) fn continue_with(&mut self, weights: VarBuilder<'static>) {
        self.weights = weights;
    }

    /// Returns the causal mask [1, 1, length, length] of `length` [1] positions.
    pub(crate) fn causal_mask(&mut self, length: &str, positions: usize) -> Value {
        let hidden = |at: usize| if at % positions > at / positions { HIDDEN } else { 0.0 };
        let values: Vec<f32> = (0..positions * positions).map(hidden).collect();
        let whole = self.floats("causal mask", &[1, 1, positions, positions], values);
        let (start, axes) = (self.integers(&[0, 0]), self.integers(&[2, 3]));
        let end = self.add("Concat", &[length, length], vec![Attribute::int("axis", 0)]);
        self.add("Slice", &[&whole, &start, &end, &axes], vec![])
    }
}
