//! Which URIs may be fetched: those under one of the allowed prefixes.
//!
//! Prefixes are compared as parsed URLs, component by component: a text that begins with a prefix
//! may lead anywhere.

use unprompt_stream::Rejection;

use super::failure::codes;
use super::location::{BadUri, Location, Scheme};
use crate::EncoderError;

/// The allowed prefixes. Each is a place: everything under it is assumed to come from one host and
/// one store.
#[derive(Debug)]
pub struct Policy {
    places: Vec<Location>,
}

impl Policy {
    /// Parses the prefixes.
    ///
    /// # Errors
    ///
    /// [`EncoderError::Allow`] for an invalid one.
    pub fn new(allow: &[String]) -> Result<Self, EncoderError> {
        let places = allow.iter().map(|entry| {
            prefix(entry).map_err(|reason| EncoderError::Allow { entry: printable(entry), reason })
        });
        Ok(Self { places: places.collect::<Result<_, _>>()? })
    }

    pub fn places(&self) -> &[Location] {
        &self.places
    }

    /// The index of the prefix that contains the location.
    pub fn place_of(&self, location: &Location) -> Result<usize, Rejection> {
        let found = self.places.iter().position(|place| is_under(location, place));
        found.ok_or_else(|| match self.places.is_empty() {
            true => nothing_allowed(),
            false => Rejection::new(
                codes::NOT_ALLOWED,
                format!(
                    "{location} is not under any prefix of allow in [claim_check]; add one, or send the \
                     picture itself"
                ),
            ),
        })
    }
}

/// The rejection of a service without allowed prefixes.
pub fn nothing_allowed() -> Rejection {
    Rejection::new(
        codes::NOT_ALLOWED,
        "no URI is fetched here; set allow in [claim_check] to the prefixes of permitted URIs, such as \
         [\"https://host/pictures/\"], or send the picture itself",
    )
}

/// A refused entry without its possible secrets: if it has an `@`, any part of it may be a
/// password; otherwise its query or fragment may be secret.
fn printable(entry: &str) -> String {
    match entry.split_once(['?', '#']) {
        _ if entry.contains('@') => "…@…".to_owned(),
        Some((before, _)) => format!("{before}?…"),
        None => entry.to_owned(),
    }
}

fn prefix(entry: &str) -> Result<Location, BadUri> {
    let place = Location::prefix(entry)?;
    match place.scheme() {
        Scheme::Http if place.url().query().is_some() => Err(BadUri::Query),
        _ if entry.contains('*') => Err(BadUri::Wildcard),
        _ => Ok(place),
    }
}

fn is_under(location: &Location, place: &Location) -> bool {
    let (url, prefix) = (location.url(), place.url());
    url.scheme() == prefix.scheme()
        && url.host() == prefix.host()
        && url.port_or_known_default() == prefix.port_or_known_default()
        && match place.scheme() {
            Scheme::File => location.path().starts_with(place.path()),
            Scheme::Http | Scheme::S3 => path_is_under(url.path(), prefix.path()),
        }
}

/// Returns whether the path is under the prefix. A prefix ends at a segment: `/pictures` is not a
/// prefix of `/pictures-of-others/1.png`.
fn path_is_under(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(allow: &[&str]) -> Policy {
        Policy::new(&allow.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn allows(policy: &Policy, uri: &str) -> bool {
        Location::parse(uri).is_ok_and(|location| policy.place_of(&location).is_ok())
    }

    #[test]
    fn uris_under_an_allowed_prefix_are_allowed() {
        let policy = policy(&[
            "https://a.example/pictures/",
            "http://b.example:8080",
            "s3://bucket/pictures/",
            "s3://whole",
            "file:///data/pictures",
        ]);
        for uri in [
            "https://a.example/pictures/1.png",
            "https://a.example/pictures/of/2026/1.png?X-Amz-Signature=1",
            "https://A.EXAMPLE/pictures/1.png",
            "https://a.example:443/pictures/1.png",
            "https://a.example/other/../pictures/1.png",
            "http://b.example:8080/anything",
            "s3://bucket/pictures/1.png",
            "s3://whole/1.png",
            "file:///data/pictures/of/1.png",
            "file://localhost/data/pictures/1.png",
        ] {
            assert!(allows(&policy, uri), "{uri} is refused");
        }
    }

    #[test]
    fn uris_that_only_resemble_an_allowed_prefix_are_refused() {
        let policy = policy(&[
            "https://a.example/pictures/",
            "https://c.example/pic",
            "s3://bucket/pictures/",
            "file:///data/pictures",
        ]);
        for uri in [
            "https://a.example.evil/pictures/1.png",
            "https://evil-a.example/pictures/1.png",
            "https://evil.example/https://a.example/pictures/1.png",
            "https://evil.example/?https://a.example/pictures/1.png",
            "https://evil.example#https://a.example/pictures/",
            "https://a.example@evil.example/pictures/1.png",
            "https://a.example:pictures@evil.example/pictures/1.png",
            "https://a.example.:443/pictures/1.png",
            "https://a.example:444/pictures/1.png",
            "http://a.example/pictures/1.png",
            "http://a.example:443/pictures/1.png",
            "https://a.example/pictures",
            "https://a.example/Pictures/1.png",
            "https://a.example//pictures/1.png",
            "https://a.example/%70ictures/1.png",
            "https://a.example/pictures%2f1.png",
            "https://a.example/pictures/../secret",
            "https://a.example/pictures/%2e%2e/secret",
            "https://a.example/pictures/.%2E/secret",
            "https://a.example/pictures/..%2fsecret",
            "https://c.example/picture",
            "https://c.example/pic.png",
            "s3://bucket/secret/1.png",
            "s3://bucket/pictures/../secret",
            "s3://bucket2/pictures/1.png",
            "file:///data/pictures2/1.png",
            "file:///data/pictures/../secret",
            "file:///data/pictures/%2e%2e/secret",
            "file:///etc/passwd",
        ] {
            assert!(!allows(&policy, uri), "{uri} is allowed");
        }
    }

    #[test]
    fn without_prefixes_nothing_is_fetched_and_the_reason_says_what_to_set() {
        let refused = policy(&[]).place_of(&Location::parse("https://a.example/1.png").unwrap()).unwrap_err();
        assert_eq!(refused.code, "uri-not-allowed");
        assert!(refused.reason.contains("allow in [claim_check]"), "{}", refused.reason);
    }

    #[test]
    fn an_invalid_prefix_error_names_the_entry_but_not_its_credentials() {
        let error = |entry: &str| Policy::new(&[entry.to_owned()]).unwrap_err().to_string();
        for entry in ["/pictures", "https://", "https://*.example/", "ftp://a.example/"] {
            assert!(error(entry).contains(&format!("{entry:?}")), "{}", error(entry));
        }
        for entry in [
            "https://user:hunter2@a.example/",
            "https://user:hunter2@a.example:bad/",
            "https://user:hunter2/x@a.example:bad/",
            "https://user:hunter2?@a.example/*",
            "https://user:hunter2@a.example/with space",
            "ftp://user:hunter2@a.example/",
            "s3://bucket/?hunter2",
            "https://a.example:bad/?sig=hunter2",
            "https://*.example/#hunter2",
        ] {
            assert!(!error(entry).contains("hunter2"), "{}", error(entry));
        }
        let signed = error("https://a.example/?sig=hunter2");
        assert!(signed.contains("\"https://a.example/?…\"") && !signed.contains("hunter2"), "{signed}");
    }

    proptest! {
        /// However the text is composed, an allowed URI leads the HTTP client to a path under the
        /// prefix.
        #[test]
        fn every_allowed_uri_stays_on_the_host_and_under_the_path(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "https", "http", ":", "/", "//", "a.example", "A.example", "evil.example", "@", "pictures", "secret", "..", ".",
                    "%2e", "%2F", "%5c", "%25", "\\", ";", "?", "#", ":443", ":80", "x.png", "user", "%00", " ", "\t", "[::1]",
                ]),
                0..14,
            ),
        ) {
            let policy = policy(&["https://a.example/pictures/"]);
            for text in [parts.concat(), format!("https://a.example/pictures/{}", parts.concat())] {
                let Ok(location) = Location::parse(&text) else { continue };
                if policy.place_of(&location).is_err() {
                    continue;
                }
                let url = location.url();
                prop_assert_eq!(url.host_str(), Some("a.example"), "{}", text);
                prop_assert_eq!((url.scheme(), url.port(), url.username()), ("https", None, ""), "{}", text);
                prop_assert!(url.path().starts_with("/pictures/"), "{}", text);
                // As servers decode it, once or twice.
                let once = percent_encoding::percent_decode_str(url.path()).collect::<Vec<u8>>();
                let twice = percent_encoding::percent_decode(&once).collect::<Vec<u8>>();
                for decoded in [once, twice] {
                    let mut segments = decoded.split(|byte| matches!(byte, b'/' | b'\\'));
                    prop_assert!(!segments.any(|segment| segment == b".."), "{}", text);
                }
            }
        }
    }
}
