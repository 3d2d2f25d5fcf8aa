//! A session of ONNX Runtime: a graph on an engine that maps tensors to values. It must not know
//! networks.

use std::sync::Arc;

use ort::environment::Environment;
use ort::ep::{ArbitrarilyConfigurableExecutionProvider, OpenVINO};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::PrimitiveTensorElementType;
use ort::value::{DynTensor, Tensor};

use super::model::{MESSAGE, Model, Weights};
use super::{failed, library};
use crate::ModelError;
use crate::engine::Engine;
use crate::metrics::normalise;

#[derive(Debug)]
pub(crate) struct Session(ort::session::Session);

/// Maximum bytes of weights that all workers of a network hold together. A single worker may hold
/// more. The weights that the workers are built from take their memory once more, shared by all
/// workers.
const WORKERS_BYTES: usize = 512 << 20;

/// Returns the number of workers for a graph of `graph_bytes`, and the threads of each: one worker
/// per thread if the weights allow it. All workers have the same number of threads, so that a
/// vector does not depend on the worker that computes it.
fn workers_and_threads(threads: usize, graph_bytes: usize) -> (usize, usize) {
    let most = (WORKERS_BYTES / graph_bytes.max(1)).clamp(1, threads);
    let threads_each = threads.div_ceil(most);
    (threads / threads_each, threads_each)
}

impl Session {
    /// Loads the network on `engine` once for each worker.
    pub(crate) fn workers<N>(
        model: Model,
        engine: Engine,
        network: impl Fn(Self) -> N,
    ) -> Result<Vec<N>, ModelError> {
        let openvino = matches!(engine, Engine::OpenVino | Engine::OpenVinoBf16);
        if openvino && model.bytes() > MESSAGE && model.has_open_sizes() {
            return Err(ModelError::GraphTooLarge {
                what: "OpenVINO's copy of a network for inputs of any size",
                bytes: model.bytes(),
            });
        }
        let environment = library::environment()?;
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let (workers, threads) = workers_and_threads(all, model.bytes());
        let (graph, weights) = model.into_parts()?;
        let load = |_| Self::load(&environment, &graph, &weights, engine, threads).map(&network);
        (0..workers).map(load).collect()
    }

    fn load(
        environment: &Environment,
        graph: &[u8],
        weights: &Weights,
        engine: Engine,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let builder = ort::session::Session::builder(environment).map_err(failed)?;
        let mut builder = match engine {
            Engine::OpenVino => openvino(builder, "f32", threads)?,
            Engine::OpenVinoBf16 => openvino(builder, "bf16", threads)?,
            _ => builder.with_intra_threads(threads).map_err(failed)?,
        };
        for (name, weight) in weights {
            builder = builder.with_external_initializer(name, Arc::clone(weight)).map_err(failed)?;
        }
        builder.commit_from_memory(graph).map(Self).map_err(failed)
    }

    /// Runs the graph and reads its only output.
    pub(crate) fn run<const N: usize, T>(
        &mut self,
        inputs: [(&'static str, DynTensor); N],
        read: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, ModelError> {
        let outputs = self.0.run(Vec::from(inputs)).map_err(failed)?;
        let (_, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        Ok(read(values))
    }
}

/// Registers OpenVINO, which must run the whole graph or the session fails. ONNX Runtime's
/// optimisations are disabled, since they hide patterns that OpenVINO fuses itself. Threads are not
/// pinned to cores, because several services may share them.
fn openvino(builder: SessionBuilder, precision: &str, threads: usize) -> Result<SessionBuilder, ModelError> {
    let settings = serde_json::json!({"CPU": {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": false,
    }});
    let provider = OpenVINO::default().with_device_type("CPU").with_arbitrary_config("load_config", settings);
    let builder = builder.with_optimization_level(GraphOptimizationLevel::Disable).map_err(failed)?;
    let builder = builder.with_disable_cpu_fallback().map_err(failed)?;
    builder.with_execution_providers([provider.build().error_on_failure()]).map_err(failed)
}

/// Splits values into rows of `dims`, normalised to unit length.
pub(crate) fn unit_rows(values: &[f32], dims: usize) -> Vec<Vec<f32>> {
    let mut rows: Vec<Vec<f32>> = values.chunks_exact(dims).map(<[f32]>::to_vec).collect();
    rows.iter_mut().for_each(|row| normalise(row));
    rows
}

/// Converts values to an input of a graph.
pub(super) fn tensor<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static, const N: usize>(
    shape: [usize; N],
    values: Vec<T>,
) -> Result<DynTensor, ModelError> {
    Ok(Tensor::from_array((shape, values)).map_err(failed)?.upcast())
}

/// A batch of token ids, padded to the longest row.
#[derive(Debug)]
pub(crate) struct Ids {
    pub length: usize,
    rows: usize,
    ids: Vec<i64>,
}

impl Ids {
    pub(crate) fn padded(ids: &[&[u32]], pad: u32) -> Self {
        let length = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let mut padded = vec![i64::from(pad); length * ids.len()];
        for (row, ids) in padded.chunks_exact_mut(length.max(1)).zip(ids) {
            row.iter_mut().zip(*ids).for_each(|(to, &id)| *to = i64::from(id));
        }
        Self { length, rows: ids.len(), ids: padded }
    }

    /// The token ids [batch, length].
    pub(crate) fn tokens(&self) -> Result<DynTensor, ModelError> {
        tensor([self.rows, self.length], self.ids.clone())
    }

    /// The mask [batch, length]: 1 for a token, 0 for padding.
    pub(crate) fn mask(&self, ids: &[&[u32]]) -> Result<DynTensor, ModelError> {
        let mut mask = vec![0i64; self.rows * self.length];
        for (row, ids) in mask.chunks_exact_mut(self.length.max(1)).zip(ids) {
            row[..ids.len()].fill(1);
        }
        tensor([self.rows, self.length], mask)
    }

    /// Positions [batch].
    pub(crate) fn places(places: Vec<i64>) -> Result<DynTensor, ModelError> {
        tensor([places.len()], places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_have_equal_threads_and_the_copies_of_weights_are_bounded() {
        assert_eq!(workers_and_threads(2, 90 << 20), (2, 1));
        assert_eq!(workers_and_threads(16, 90 << 20), (4, 4));
        assert_eq!(workers_and_threads(9, 90 << 20), (4, 2));
        assert_eq!(workers_and_threads(16, 1 << 20), (16, 1));
        assert_eq!(workers_and_threads(16, 2 << 30), (1, 16));
        assert_eq!(workers_and_threads(1, 0), (1, 1));
    }
}
