//! Says what is wrong with a value without quoting it: it may be a secret, whichever key it was
//! meant for. Only a word in the place of one of a few expected words is quoted.

use figment::error::{Actual, Kind};

/// Returns figment's or toml's message, but quotes nothing that was written.
pub(super) fn unquoted(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) if message.starts_with("TOML parse error") => without_source(message),
        Kind::InvalidType(actual, expected) => {
            format!("invalid type: found {}, expected {expected}", name(actual))
        }
        Kind::InvalidValue(actual, expected) => {
            format!("invalid value: found {}, expected {expected}", name(actual))
        }
        Kind::Unsupported(actual) => format!("unsupported: found {}", name(actual)),
        Kind::UnsupportedKey(actual, needed) => {
            format!("unsupported key: found {}, expected {needed}", name(actual))
        }
        // figment encloses its list of names, each in backticks, in backticks again.
        kind => kind.to_string().replace("``", "`"),
    }
}

fn name(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) => "a string",
        Actual::Bytes(_) => "bytes",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "another kind of value",
    }
}

/// Leaves out the quoted source. toml's first line has the position; then follow the line of the
/// file, carets under it, and the message.
fn without_source(message: &str) -> String {
    let position = message.lines().next().unwrap_or_default();
    let is_caret = |line: &&str| line.trim_start().starts_with('|') && line.trim_end().ends_with('^');
    let said: Vec<&str> =
        message.lines().skip_while(|line| !is_caret(line)).skip(1).filter(|line| !line.is_empty()).collect();
    match said.is_empty() {
        true => position.to_owned(),
        false => format!("{position}: {}", said.join(", ")),
    }
}
