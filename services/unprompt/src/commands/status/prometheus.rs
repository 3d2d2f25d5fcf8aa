//! Parses the response of /metrics (Prometheus exposition format, version 0.0.4).

use std::collections::BTreeMap;

/// A value with its name and labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    /// Returns the label with this name, or an empty string.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Returns all samples. Skips comments and malformed lines.
pub fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let name_ends = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_ends);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // A timestamp may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Parses the labels up to the closing brace. Returns them and the rest.
fn labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = quoted(rest)?;
        labels.insert(name.to_owned(), value);
        text = rest;
    }
}

/// Parses the text up to the closing quotation mark. Returns it and the rest.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, letter)) = chars.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn samples_parse_with_or_without_labels_and_timestamps() {
        let text = "# HELP a about\n# TYPE a counter\na{service=\"x\",code=\"y z\"} 12\n\nb 0.5\nc{} 1e3 1700000000000\n";
        let found = samples(text);
        assert_eq!(found[0].labels, labelled(&[("code", "y z"), ("service", "x")]));
        assert_eq!(found.iter().map(|sample| sample.value).collect::<Vec<_>>(), [12.0, 0.5, 1_000.0]);
        assert_eq!(found[0].label("service"), "x");
        assert_eq!(found[1].label("service"), "");
    }

    #[test]
    fn escaped_label_values_are_unescaped() {
        let found = samples(r#"a{path="C:\\x",said="\"}\" and\nmore"} 1"#);
        assert_eq!(found[0].labels, labelled(&[("path", r"C:\x"), ("said", "\"}\" and\nmore")]));
    }

    #[test]
    fn malformed_lines_are_skipped() {
        assert_eq!(samples("a{b=\"c} 1\nnothing\nd e\nf{g} 2\n"), []);
    }
}
