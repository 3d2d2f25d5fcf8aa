//! Opens the corpus that a job reads.

use unprompt_corpus::clean::CountTokens;
use unprompt_corpus::{Corpus, Options};
use unprompt_models::token_count::token_counter;

use crate::blocking::blocking;
use crate::{JobError, ModelFolders};

/// Finds the inputs of `options`. MiniLM's tokenizer counts tokens if `options` has bounds on them;
/// no other model is needed.
///
/// # Errors
/// Those of [`Corpus::open`], [`JobError::TokenCounter`].
pub async fn open_corpus(options: Options, models: &ModelFolders) -> Result<Corpus, JobError> {
    let models = models.clone();
    blocking("finds the inputs", move || {
        let cleaning = &options.cleaning;
        let counts = cleaning.min_tokens.is_some() || cleaning.max_tokens.is_some();
        let count_tokens = counts.then(|| count_tokens(&models)).transpose();
        let count_tokens = count_tokens.map_err(|error| JobError::TokenCounter(Box::new(error)))?;
        Ok(Corpus::open(options, count_tokens)?)
    })
    .await?
}

fn count_tokens(models: &ModelFolders) -> Result<CountTokens, JobError> {
    Ok(Box::new(token_counter(&models.minilm()?)?))
}
