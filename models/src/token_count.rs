//! How many tokens a text has, for those who choose texts by length. It loads no network.

use std::path::Path;

use crate::error::ModelError;
use crate::tokenizer;

/// Counts a text's tokens as the tokenizer in `folder` has them, however many they are, without the special ones.
///
/// # Errors
/// [`ModelError::Broken`](crate::ModelError) or [`ModelError::Missing`](crate::ModelError) where there is none that can be read.
pub fn token_counter(folder: &Path) -> Result<impl Fn(&str) -> usize + Send + Sync + 'static, ModelError> {
    let mut tokenizer = tokenizer::of_folder(folder)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| ModelError::broken(folder, error))?;
    // A text that cannot be tokenised is no prompt either: no bound lets it pass.
    Ok(move |text: &str| tokenizer.encode_fast(text, false).map_or(usize::MAX, |tokens| tokens.len()))
}
