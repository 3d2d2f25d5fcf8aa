//! Prompts in files: reading, cleaning, and writing tables of prompts.
//!
//! [`Corpus`] reads [sources](source) row by row ([`reader`]), drops unwanted rows ([`clean`]) and
//! reports the reasons ([`report`]). [`near::NearDuplicates`] drops near duplicates where vectors
//! are at hand; [`table`] writes. The crate is synchronous and knows nothing of topics or the
//! index: texts and vectors come in and go out.

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
