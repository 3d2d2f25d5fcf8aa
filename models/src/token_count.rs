//! How many tokens a text has, for those who choose texts by length. It loads no network.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::ModelError;

/// Counts a text's tokens as the tokenizer.json in `folder` has them, however many they are, without the special ones.
///
/// # Errors
/// [`ModelError::Broken`](crate::ModelError) where there is none that can be read.
pub fn token_counter(folder: &Path) -> Result<impl Fn(&str) -> usize + Send + Sync + 'static, ModelError> {
    let path = folder.join("tokenizer.json");
    let mut tokenizer = Tokenizer::from_file(&path).map_err(|error| ModelError::broken(&path, error))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| ModelError::broken(&path, error))?;
    // A text that cannot be tokenised is no prompt either: no bound lets it pass.
    Ok(move |text: &str| tokenizer.encode_fast(text, false).map_or(usize::MAX, |tokens| tokens.len()))
}
