//! Prompts in files: reading what people have, cleaning it, and writing tables of prompts.
//!
//! [`Corpus`] reads [sources](source) row by row ([`reader`]), drops what is not wanted ([`clean`]) and tells why
//! ([`report`]); [`near::NearDuplicates`] goes on where vectors are at hand; [`table`] writes. It is synchronous and
//! knows nothing of topics, of the index and of networks: texts and vectors come in and go out.

pub mod checkpoint;
pub mod clean;
mod corpus;
mod error;
pub mod near;
pub mod reader;
mod remote;
pub mod report;
mod row;
pub mod source;
pub mod table;

pub use corpus::{Clean, Corpus, Options};
pub use error::CorpusError;
pub use reader::MAX_ROW_BYTES;
pub use row::{BadRow, Row, Scores};
