//! The values that are prompts on prompts.v1.

use std::sync::Arc;

use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::{Codec, encode};
use unprompt_schemas::records::{Head, PROMPT_MAX_BYTES, Prompt};
use unprompt_schemas::registry::MemoryRegistry;

use crate::samples::Sample;

fn read(value: &[u8]) -> Result<Prompt, SchemaError> {
    Prompt::from_record(value, &Codec::single_object())
}

fn plain(text: &str) -> Prompt {
    Prompt { text: text.to_owned(), source: "text/plain".to_owned(), ..Prompt::default() }
}

#[test]
fn a_plain_text_line_from_kcat_is_a_prompt() {
    assert_eq!(read(b"a red fox").unwrap(), plain("a red fox"));
    assert_eq!(read("\u{feff} un café\tau lait\r\n".as_bytes()).unwrap(), plain("un café\tau lait"));
    assert_eq!(read(b"{\"text\": 1}").unwrap(), plain("{\"text\": 1}"), "JSON is text like any other");
}

#[test]
fn avro_in_both_framings_is_a_prompt() {
    assert_eq!(read(&encode(&Prompt::sample()).unwrap()).unwrap(), Prompt::sample());
    let codec = Codec::confluent(Arc::new(MemoryRegistry::default()));
    let framed = codec.encode("prompts.v1", &Prompt::sample()).unwrap();
    assert_eq!(Prompt::from_record(&framed, &codec).unwrap(), Prompt::sample());
    let error = read(&framed).unwrap_err();
    assert_eq!((error.code(), error.is_fatal()), ("registry-needed", false), "no registry");
}

#[test]
fn a_prompt_without_text_is_refused() {
    let blank = encode(&Prompt { text: "\u{3000}\n".to_owned(), ..Prompt::sample() }).unwrap();
    for value in [&b""[..], b" \t\r\n", "\u{feff}".as_bytes(), &blank] {
        let error = read(value).unwrap_err();
        assert_eq!(error.code(), "empty-prompt");
        assert!(!error.is_fatal() && !error.is_transient());
    }
}

#[test]
fn a_prompt_that_is_not_utf8_is_refused() {
    let error = read(b"caf\xe9").unwrap_err();
    assert!(matches!(error, SchemaError::PromptNotUtf8 { position: 3 }), "{error:?}");
    assert_eq!(error.code(), "prompt-not-utf8");
}

#[test]
fn a_prompt_over_the_limit_is_refused_as_text_and_as_avro() {
    let longest = "x".repeat(PROMPT_MAX_BYTES);
    assert_eq!(read(longest.as_bytes()).unwrap().text.len(), PROMPT_MAX_BYTES);
    let text = longest + "x";
    let avro = encode(&Prompt { text: text.clone(), ..Prompt::default() }).unwrap();
    for value in [text.as_bytes(), &avro] {
        let error = read(value).unwrap_err();
        assert!(matches!(error, SchemaError::PromptTooLong { length: 65_537, limit: 65_536 }), "{error:?}");
        assert_eq!(error.code(), "prompt-too-long");
    }
}

#[test]
fn avro_of_another_record_is_not_read_as_text() {
    assert_eq!(read(&encode(&Head::sample()).unwrap()).unwrap_err().code(), "wrong-record");
    assert_eq!(read(&[0xC3, 0x01]).unwrap_err().code(), "truncated-record");
    assert_eq!(read(&[0]).unwrap_err().code(), "truncated-record");
}

#[test]
fn extra_spaces_do_not_change_a_prompts_id() {
    assert_eq!(plain("a  fox").id(), plain("a fox").id());
}
