//! Counts the tokens of a text, to select texts by length. It loads no network.

use std::path::Path;

use crate::error::ModelError;
use crate::tokenizer;

/// Returns a function that counts a text's tokens with the tokenizer in `folder`, without a limit
/// and without special tokens.
///
/// # Errors
/// [`ModelError::Broken`](crate::ModelError) or [`ModelError::Missing`](crate::ModelError) if no
/// tokenizer can be read.
pub fn token_counter(folder: &Path) -> Result<impl Fn(&str) -> usize + Send + Sync + 'static, ModelError> {
    let mut tokenizer = tokenizer::of_folder(folder)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| ModelError::broken(folder, error))?;
    // A text that cannot be tokenized is not a prompt; usize::MAX exceeds every bound.
    Ok(move |text: &str| tokenizer.encode_fast(text, false).map_or(usize::MAX, |tokens| tokens.len()))
}
