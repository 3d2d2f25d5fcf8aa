//! Untrusted text on a terminal: characters that would move the cursor, change colours or titles,
//! or reverse the writing direction are shown as escapes.

use std::borrow::Cow;

/// Returns the text with such characters as `\u{1b}`. Line breaks and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character.escape_unicode().to_string())
}

/// Returns JSON with such characters as `\u001b`. They occur only inside strings.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    escaped(json, |character| format!("\\u{:04x}", u32::from(character)))
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    match text.contains(commands_terminal) {
        false => Cow::Borrowed(text),
        true => {
            let shown = |character| match commands_terminal(character) {
                true => escape(character),
                false => character.to_string(),
            };
            Cow::Owned(text.chars().map(shown).collect())
        }
    }
}

/// Control characters, and those that change the direction of text. All are below U+10000.
fn commands_terminal(character: char) -> bool {
    let direction = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() && !matches!(character, '\n' | '\t') || direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_escaped() {
        let text = "a\x1b]0;owned\x07 \u{9b}31m\tred\r\n\u{202e}";
        let shown = printable(text);
        assert_eq!(shown, "a\\u{1b}]0;owned\\u{7} \\u{9b}31m\tred\\u{d}\n\\u{202e}");
        assert!(matches!(printable("żółć 日本 🎨\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn escaped_json_parses_to_the_same_value() {
        let value = serde_json::Value::from("a\u{9b}31m\u{7f}\u{202e}é");
        let text = value.to_string();
        let shown = printable_json(&text);
        assert!(shown.contains("\\u009b") && shown.contains("\\u007f") && shown.contains('é'), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
