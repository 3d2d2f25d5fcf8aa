//! What is wrong with a value, without the value: it may be a secret, whichever key it was meant for. Only a word that stands where one of
//! a few is expected is told as it is.

use figment::error::{Actual, Kind};

/// As figment and toml say it, but quoting nothing that was written.
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
        // figment puts its list of names, each in backticks, into backticks once more.
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

/// toml's first line has the position; then come the line of the file and carets under it, and behind them the message.
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
