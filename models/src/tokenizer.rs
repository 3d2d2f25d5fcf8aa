//! Tokenizers from a model folder: tokenizer.json, BERT's vocab.txt, or CLIP's vocab.json with
//! merges.txt.

mod word_pieces;

use std::path::Path;

use serde::Deserialize;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer, TruncationParams};

use crate::ModelError;
use crate::files;

/// A tokenizer that converts texts to token ids and truncates them, keeping the special tokens.
#[derive(Debug, Clone)]
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    pub(crate) max_length: usize,
    /// The id with which diffusers pads prompts.
    pub(crate) pad: u32,
}

/// The keys of tokenizer_config.json that are used.
#[derive(Debug, Default, Deserialize)]
struct Settings {
    model_max_length: Option<f64>,
    pad_token: Option<Special>,
    bos_token: Option<Special>,
    eos_token: Option<Special>,
    unk_token: Option<Special>,
    cls_token: Option<Special>,
    sep_token: Option<Special>,
    mask_token: Option<Special>,
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
}

impl Settings {
    fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("tokenizer_config.json");
        if path.is_file() { files::read_json(&path) } else { Ok(Self::default()) }
    }
}

/// A special token, written as its text or as an object that contains it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Special {
    Text(String),
    Token { content: String },
}

impl Special {
    fn text(this: Option<&Self>, otherwise: &str) -> String {
        match this {
            Some(Self::Text(text) | Self::Token { content: text }) => text.clone(),
            None => otherwise.to_owned(),
        }
    }
}

/// The maximum number of bytes of texts that are tokenized together. A tokenizer uses about 100
/// bytes per token, even for truncated tokens, and the longest prompts have one token per byte.
const GROUP_BYTES: usize = 256 << 10;

const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// The split of a text into words by CLIP (openai/CLIP, simple_tokenizer.py).
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

impl TextTokenizer {
    /// Loads the tokenizer in `folder`. Texts are truncated at `positions` tokens, or earlier if
    /// tokenizer_config.json says so.
    pub(crate) fn load(folder: &Path, positions: usize) -> Result<Self, ModelError> {
        let settings = Settings::read(folder)?;
        let mut tokenizer = tokenizer(folder, &settings)?;
        let wanted = settings.model_max_length.filter(|length| *length >= 1.0 && *length < 1e6);
        let max_length = wanted.map_or(positions, |length| positions.min(length as usize));
        let truncation = TruncationParams { max_length, ..Default::default() };
        let failed = |error: tokenizers::Error| ModelError::Tokenizer(error.to_string());
        tokenizer.with_padding(None).with_truncation(Some(truncation)).map_err(failed)?;
        let pad = Special::text(settings.pad_token.as_ref(), END);
        let pad = tokenizer.token_to_id(&pad).unwrap_or(0);
        Ok(Self { tokenizer, max_length, pad })
    }

    /// Returns each text's ids, including special tokens.
    pub(crate) fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut ids = Vec::with_capacity(texts.len());
        for group in groups(texts) {
            let encodings = self.tokenizer.encode_batch_fast(group.to_vec(), true);
            let encodings = encodings.map_err(|error| ModelError::Tokenizer(error.to_string()))?;
            ids.extend(encodings.iter().map(|encoding| encoding.get_ids().to_vec()));
        }
        Ok(ids)
    }

    /// Returns each text's ids, padded to the maximum length.
    pub(crate) fn encode_padded(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut ids = self.encode(texts)?;
        ids.iter_mut().for_each(|ids| ids.resize(self.max_length, self.pad));
        Ok(ids)
    }
}

/// Divides texts into runs of at most [`GROUP_BYTES`], or one text that is longer.
fn groups<'a, 'b>(texts: &'a [&'b str]) -> impl Iterator<Item = &'a [&'b str]> {
    let mut rest = texts;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |text: &&&str| {
            bytes += text.len();
            bytes <= GROUP_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (group, others) = rest.split_at(count);
        rest = others;
        (!group.is_empty()).then_some(group)
    })
}

/// Loads the tokenizer in `folder` unchanged.
pub(crate) fn of_folder(folder: &Path) -> Result<Tokenizer, ModelError> {
    tokenizer(folder, &Settings::read(folder)?)
}

fn tokenizer(folder: &Path, settings: &Settings) -> Result<Tokenizer, ModelError> {
    let (whole, pieces) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
    if whole.is_file() {
        return Tokenizer::from_file(&whole).map_err(|error| ModelError::broken(&whole, error));
    }
    match pieces.is_file() {
        true => word_pieces::word_pieces(&pieces, settings),
        false => clip_bpe(folder, settings),
    }
}

/// Builds CLIP's tokenizer from vocab.json and merges.txt, as transformers converts it.
fn clip_bpe(folder: &Path, settings: &Settings) -> Result<Tokenizer, ModelError> {
    let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let (begin, end) =
        (Special::text(settings.bos_token.as_ref(), BEGIN), Special::text(settings.eos_token.as_ref(), END));
    for path in [&vocabulary, &merges] {
        files::read(path)?;
    }
    let broken = |error: tokenizers::Error| ModelError::broken(&vocabulary, error);
    let bpe = BPE::from_file(&vocabulary.to_string_lossy(), &merges.to_string_lossy())
        .end_of_word_suffix("</w>".to_owned())
        .unk_token(end.clone())
        .build()
        .map_err(broken)?;
    let mut tokenizer = Tokenizer::new(bpe);
    let id = |token: &str| {
        let absent = || ModelError::broken(&vocabulary, format!("it lacks the special token {token}"));
        tokenizer.token_to_id(token).ok_or_else(absent)
    };
    let ends = RobertaProcessing::new((end.clone(), id(&end)?), (begin.clone(), id(&begin)?));
    let whitespace =
        Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".to_owned()), " ");
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true);
    tokenizer
        .with_normalizer(Some(Normalizers::new(vec![
            NFC.into(),
            whitespace.map_err(broken)?.into(),
            Lowercase.into(),
        ])))
        .map_err(broken)?
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![
            words.map_err(broken)?.into(),
            ByteLevel::new(false, true, false).into(),
        ])))
        .with_post_processor(Some(ends.trim_offsets(false).add_prefix_space(false)));
    tokenizer
        .add_special_tokens([AddedToken::from(begin, true), AddedToken::from(end, true)])
        .map_err(broken)?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_tokenized_in_size_limited_groups_in_order() {
        let (short, long, longer) =
            ("a".to_owned(), "b".repeat(GROUP_BYTES / 2), "c".repeat(GROUP_BYTES + 1));
        let texts = [&short, &longer, &long, &long, &short, &long].map(String::as_str);
        let groups: Vec<_> = groups(&texts).collect();
        assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [1, 1, 2, 2]);
        assert_eq!(groups.concat(), texts);
        assert_eq!(super::groups(&[]).count(), 0);
    }
}
