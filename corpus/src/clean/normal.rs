//! The published form of a text: normalised as for its identity, without invisible characters.

use unprompt_schemas::identity;

/// Removes control characters and invisible format characters, then normalises the text as for its
/// identity: NFC, single spaces.
pub(super) fn normalise(text: &str) -> String {
    // The fast path for most prompts, which are ASCII without control characters.
    if text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
        return collapsed(text);
    }
    let mut visible = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut before = None;
    while let Some(character) = characters.next() {
        if !is_invisible(character) || joins(before, character, characters.peek().copied()) {
            visible.push(character);
            before = Some(character);
        }
    }
    identity::normalise(&visible)
}

/// Collapses the white space of ASCII, which is always in NFC. `char` counts the vertical tab as
/// white space, as Unicode does.
fn collapsed(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.push_str(word);
    }
    normal
}

/// Returns whether a character is invisible.
///
/// These are Unicode's control characters except white space, and the format characters without a
/// glyph of their own: soft hyphen, zero-width characters and joiners, direction marks and
/// embeddings, byte order mark, annotations, tags.
fn is_invisible(character: char) -> bool {
    if character.is_control() {
        return !character.is_whitespace();
    }
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e007f}')
}

/// Returns whether a joiner shapes its neighbours, as in emoji and some scripts. Such joiners stay.
fn joins(before: Option<char>, joiner: char, after: Option<char>) -> bool {
    let shaped = |character: Option<char>| {
        character.is_some_and(|c| !c.is_ascii() && !c.is_whitespace() && !is_invisible(c))
    };
    matches!(joiner, '\u{200c}' | '\u{200d}') && shaped(before) && shaped(after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invisible_characters_are_removed_and_shaping_joiners_are_kept() {
        assert_eq!(normalise("\u{feff}a\u{200b} red\u{0}\t\r\n star\u{202e}\u{ad}"), "a red star");
        assert_eq!(normalise("👩\u{200d}🚀 flies"), "👩\u{200d}🚀 flies");
        assert_eq!(normalise("a\u{200d}b"), "ab");
        assert_eq!(normalise("cafe\u{301}"), "caf\u{e9}");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing_and_the_identity_is_kept(text in "\\PC{0,40}|[ a-z\\t\\n\u{b}\u{c}]{0,40}") {
            let normal = normalise(&text);
            prop_assert_eq!(normalise(&normal), normal.clone());
            prop_assert_eq!(identity::normalise(&normal), normal);
        }
    }
}
