//! The value of a `text/uri-list` record (RFC 2483, section 5): one URI per line; lines that start
//! with `#` are comments.

use unprompt_schemas::cloudevents::names::URI_LIST;
use unprompt_stream::Rejection;

use super::failure::codes;

/// Returns whether a `content-type` is a list of URIs; parameters such as `charset` are ignored.
pub fn is_uri_list(content_type: Option<&str>) -> bool {
    let essence = content_type.and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(URI_LIST))
}

/// The one URI of the list.
pub fn only_uri(list: &[u8]) -> Result<&str, Rejection> {
    let refused = |reason: &str| Err(Rejection::new(codes::URI_LIST, reason));
    let Ok(text) = str::from_utf8(list) else {
        return refused(
            "the list of URIs is not text; publish one URI as text, or send the picture without \
             text/uri-list",
        );
    };
    let mut uris = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri),
        (None, _) => refused("the list has no URI; a record names exactly one picture"),
        (Some(_), more) => {
            refused(&format!("the list has {} URIs; publish a record for each of the pictures", more + 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_empty_lines_and_line_endings_are_ignored() {
        for list in [
            "https://a.example/1.png",
            "https://a.example/1.png\n",
            "# of Tuesday\r\n\r\nhttps://a.example/1.png\r\n",
            "  https://a.example/1.png  \r\n#https://a.example/2.png",
        ] {
            assert_eq!(only_uri(list.as_bytes()).unwrap(), "https://a.example/1.png", "{list:?}");
        }
    }

    #[test]
    fn a_list_without_exactly_one_uri_is_refused() {
        let reason = |list: &[u8]| {
            let rejection = only_uri(list).unwrap_err();
            assert_eq!(rejection.code, "uri-list");
            rejection.reason
        };
        assert!(reason(b"# nothing here\r\n").contains("no URI"));
        assert!(reason(b"").contains("no URI"));
        assert!(reason(b"https://a.example/1\nhttps://a.example/2\nhttps://a.example/3").contains("3 URIs"));
        assert!(reason(b"\x89PNG\r\n").contains("not text"));
    }

    #[test]
    fn the_content_type_is_compared_as_a_media_type() {
        for kind in ["text/uri-list", "Text/URI-List", "text/uri-list; charset=utf-8", " text/uri-list "] {
            assert!(is_uri_list(Some(kind)), "{kind}");
        }
        for kind in ["text/uri-listing", "image/png", ""] {
            assert!(!is_uri_list(Some(kind)), "{kind}");
        }
        assert!(!is_uri_list(None));
    }
}
