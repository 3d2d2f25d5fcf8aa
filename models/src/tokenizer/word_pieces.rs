//! BERT's tokenizer from vocab.txt, for folders that are older than tokenizer.json.

use std::collections::BTreeMap;
use std::path::Path;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::{Settings, Special};
use crate::ModelError;
use crate::files;

/// Builds the tokenizer as transformers converts it: words and word pieces between [CLS] and [SEP].
pub(super) fn word_pieces(vocabulary: &Path, settings: &Settings) -> Result<Tokenizer, ModelError> {
    let broken = |error: tokenizers::Error| ModelError::broken(vocabulary, error);
    let special = |token: &Option<Special>, otherwise| Special::text(token.as_ref(), otherwise);
    let unknown = special(&settings.unk_token, "[UNK]");
    let (first, last) = (special(&settings.cls_token, "[CLS]"), special(&settings.sep_token, "[SEP]"));
    let pieces = WordPiece::from_file(&vocabulary.to_string_lossy()).unk_token(unknown.clone()).build();
    let mut tokenizer = Tokenizer::new(pieces.map_err(broken)?);
    let id = |token: &str| {
        let absent = || ModelError::broken(vocabulary, format!("it lacks the special token {token}"));
        tokenizer.token_to_id(token).ok_or_else(absent)
    };
    id(&unknown)?;
    let ends = BertProcessing::new((last.clone(), id(&last)?), (first.clone(), id(&first)?));
    let normalizer = BertNormalizer::new(
        true,
        settings.tokenize_chinese_chars.unwrap_or(true),
        settings.strip_accents,
        settings.do_lower_case.unwrap_or(true),
    );
    let (padding, mask) = (special(&settings.pad_token, "[PAD]"), special(&settings.mask_token, "[MASK]"));
    let specials = [unknown, last, padding, first, mask];
    let specials: Vec<_> =
        specials.into_iter().filter(|token| tokenizer.token_to_id(token).is_some()).collect();
    tokenizer
        .with_normalizer(Some(normalizer))
        .map_err(broken)?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(ends));
    tokenizer
        .add_special_tokens(specials.into_iter().map(|token| AddedToken::from(token, true)))
        .map_err(broken)?;
    add_further(&mut tokenizer, &vocabulary.with_file_name("added_tokens.json"))?;
    Ok(tokenizer)
}

/// Adds the tokens of added_tokens.json, whose ids must follow those of the vocabulary.
fn add_further(tokenizer: &mut Tokenizer, path: &Path) -> Result<(), ModelError> {
    if !path.is_file() {
        return Ok(());
    }
    let by_token: BTreeMap<String, u32> = files::read_json(path)?;
    let mut by_id: Vec<(u32, String)> = by_token.into_iter().map(|(token, id)| (id, token)).collect();
    by_id.sort_unstable();
    for (id, token) in by_id {
        let added = tokenizer.add_special_tokens([AddedToken::from(token.clone(), true)]);
        added.map_err(|error| ModelError::broken(path, error))?;
        if tokenizer.token_to_id(&token) != Some(id) {
            return Err(ModelError::broken(path, format!("{token} cannot be token {id} of this vocabulary")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::TextTokenizer;

    /// Makes a folder with these files.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, content)| std::fs::write(folder.path().join(name), content).unwrap());
        folder
    }

    const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\nfox\n##es\n,\nétude\netude\n";

    fn ids(files: &[(&str, &str)], text: &str) -> Vec<u32> {
        TextTokenizer::load(folder(files).path(), 16).unwrap().encode(&[text]).unwrap().remove(0)
    }

    #[test]
    fn words_are_split_into_pieces_between_cls_and_sep() {
        assert_eq!(ids(&[("vocab.txt", VOCABULARY)], "Red  foxes, bird"), [2, 5, 6, 7, 8, 1, 3]);
        assert_eq!(ids(&[("vocab.txt", VOCABULARY)], "Étude"), [2, 10, 3]);
        let cased = [("vocab.txt", VOCABULARY), ("tokenizer_config.json", r#"{"do_lower_case": false}"#)];
        assert_eq!(ids(&cased, "Red étude"), [2, 1, 9, 3]);
    }

    #[test]
    fn added_tokens_have_their_given_ids_or_are_refused() {
        let added = |json| [("vocab.txt", VOCABULARY), ("added_tokens.json", json)];
        assert_eq!(ids(&added(r#"{"[DEC]": 11, "[ENC]": 12}"#), "[ENC] red [DEC]"), [2, 12, 5, 11, 3]);
        let refused = TextTokenizer::load(folder(&added(r#"{"[DEC]": 30}"#)).path(), 16).unwrap_err();
        assert!(refused.to_string().contains("[DEC] cannot be token 30"), "{refused}");
    }

    #[test]
    fn a_vocabulary_that_lacks_a_special_token_is_refused() {
        let refused =
            TextTokenizer::load(folder(&[("vocab.txt", "red\nfox\n[UNK]\n")]).path(), 16).unwrap_err();
        assert!(refused.to_string().contains("[SEP]"), "{refused}");
    }
}
