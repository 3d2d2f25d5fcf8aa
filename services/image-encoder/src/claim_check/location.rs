//! A parsed and normalised URI that may name a picture. It cannot hold credentials, and it prints
//! without its query, which may hold the signature of a presigned URL.
//!
//! References: WHATWG URL (parsing, as the HTTP client does it), RFC 3986 (characters of a URI),
//! RFC 8089 (`file:`).

use std::fmt;
use std::path::PathBuf;

use percent_encoding::{percent_decode, percent_decode_str};
use url::Url;

/// The maximum length of a URI.
const MAX_BYTES: usize = 8192;
/// A path that is still encoded after this many decodings is refused.
const MAX_DECODINGS: usize = 4;

/// Why a text is not the URI of a picture. No variant repeats the text, since it may hold
/// credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUri {
    #[error("it has {0} bytes where {MAX_BYTES} are allowed; use a shorter one")]
    TooLong(usize),
    #[error("it has spaces, backslashes, control characters or letters beyond ASCII; percent-encode them")]
    Characters,
    #[error("it is not an absolute URI ({0}); start it with file:, http:, https: or s3:")]
    NotAbsolute(url::ParseError),
    #[error("{0}: is not fetched; use file:, http:, https: or s3:")]
    Scheme(String),
    #[error("no host follows its scheme; write scheme://host/path")]
    NoHost,
    #[error(
        "it holds a user name or a password; leave them out, and use a presigned URL or [claim_check.s3]"
    )]
    Userinfo,
    #[error("its path has `..`, a NUL byte or nested percent-encoding; write the path itself")]
    Climbs,
    #[error("a query is not allowed here; leave it out")]
    Query,
    #[error("wildcards are not supported; write a prefix for each host")]
    Wildcard,
    #[error("a file: URI names a path on this machine; write file:///folder/picture.png")]
    File,
    #[error("its bucket name is not valid in S3: use 3 to 63 of a-z, 0-9, `.` and `-`")]
    Bucket,
    #[error("it names a bucket but no object; write s3://bucket/key")]
    NoKey,
}

/// The protocol of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    File,
    /// `http` or `https`.
    Http,
    S3,
}

/// The location of a picture, or a prefix of locations.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    url: Url,
    scheme: Scheme,
}

impl Location {
    /// Parses the location of a picture.
    ///
    /// # Errors
    ///
    /// What is wrong with the URI, without the URI.
    pub fn parse(text: &str) -> Result<Self, BadUri> {
        let location = Self::prefix(text)?;
        if location.scheme == Scheme::S3 && location.key().is_empty() {
            return Err(BadUri::NoKey);
        }
        Ok(location)
    }

    /// Parses a prefix: like [`Self::parse`], but it may name a whole bucket.
    pub(super) fn prefix(text: &str) -> Result<Self, BadUri> {
        check_text(text)?;
        let mut url = Url::parse(text).map_err(BadUri::NotAbsolute)?;
        url.set_fragment(None);
        let scheme = match url.scheme() {
            "http" | "https" => Scheme::Http,
            "s3" => Scheme::S3,
            "file" => Scheme::File,
            other => return Err(BadUri::Scheme(other.to_owned())),
        };
        check_authority(text, &url, scheme)?;
        if climbs(url.path()) {
            return Err(BadUri::Climbs);
        }
        Ok(Self { url, scheme })
    }

    /// The target of a redirect from here.
    pub(super) fn redirected(&self, to: &str) -> Result<Self, BadUri> {
        Self::parse(self.url.join(to).map_err(BadUri::NotAbsolute)?.as_str())
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket of an `s3:` location.
    pub(super) fn bucket(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The key of an `s3:` location, decoded.
    pub(super) fn key(&self) -> String {
        percent_decode_str(self.url.path().trim_start_matches('/')).decode_utf8_lossy().into_owned()
    }

    /// The path of a `file:` location.
    pub(super) fn path(&self) -> PathBuf {
        self.url.to_file_path().unwrap_or_default()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.url.as_str();
        f.write_str(text.split_once('?').map_or(text, |(before, _)| before))
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

/// Refuses text that the URL parser would repair, since other parsers read it differently.
fn check_text(text: &str) -> Result<(), BadUri> {
    if text.len() > MAX_BYTES {
        return Err(BadUri::TooLong(text.len()));
    }
    match text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        true => Ok(()),
        false => Err(BadUri::Characters),
    }
}

fn check_authority(text: &str, url: &Url, scheme: Scheme) -> Result<(), BadUri> {
    let rest = &text[url.scheme().len() + 1..];
    let authority =
        rest.strip_prefix("//").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(BadUri::Userinfo);
    }
    match scheme {
        Scheme::File if !rest.starts_with('/') || url.host().is_some() || url.to_file_path().is_err() => {
            Err(BadUri::File)
        }
        Scheme::File if url.query().is_some() => Err(BadUri::Query),
        Scheme::File => Ok(()),
        Scheme::S3 if url.query().is_some() => Err(BadUri::Query),
        Scheme::S3 if url.port().is_some() || !is_bucket(url.host_str().unwrap_or_default()) => {
            Err(BadUri::Bucket)
        }
        Scheme::S3 | Scheme::Http if authority.is_none_or(str::is_empty) => Err(BadUri::NoHost),
        Scheme::S3 | Scheme::Http => Ok(()),
    }
}

fn is_bucket(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| is_letter(byte) || matches!(byte, b'.' | b'-'))
        && name.bytes().next().is_some_and(is_letter)
        && !name.contains("..")
}

/// Returns whether the path leads to a parent folder for some server. The parser resolves `..` and
/// `%2e%2e`; servers also decode encoded slashes, decode twice, and strip parameters of segments.
fn climbs(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..MAX_DECODINGS {
        if path.contains(&0) || path.split(|byte| matches!(byte, b'/' | b'\\')).any(is_dots) {
            return true;
        }
        let decoded: Vec<u8> = percent_decode(&path).collect();
        if decoded == path {
            return false;
        }
        path = decoded;
    }
    true
}

fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
    matches!(name, b"." | b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Location {
        Location::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn supported_schemes_are_accepted() {
        assert_eq!(parsed("file:///data/a%20b.png").path(), PathBuf::from("/data/a b.png"));
        assert_eq!(parsed("file:/data/1.png").path(), PathBuf::from("/data/1.png"));
        assert_eq!(parsed("HTTPS://A.Example:443/1.png").url().as_str(), "https://a.example/1.png");
        let s3 = parsed("s3://bucket/pictures/a%20b.png");
        assert_eq!((s3.bucket(), s3.key().as_str()), ("bucket", "pictures/a b.png"));
    }

    #[test]
    fn a_uri_is_printed_without_its_query_and_fragment() {
        let location = parsed("https://a.example/1.png?X-Amz-Signature=hunter2#hunter3");
        assert_eq!(location.to_string(), "https://a.example/1.png");
        assert_eq!(format!("{location:?}"), "Location(https://a.example/1.png)");
        assert_eq!(location.url().query(), Some("X-Amz-Signature=hunter2"), "it is fetched with it");
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for text in [
            "https://user:hunter2@a.example/1.png",
            "https://hunter2@a.example/1.png",
            "https://@a.example/1.png",
            "https://a.example@evil.example/1.png",
            "https://a.example%40hunter2@evil.example/1.png",
            "s3://hunter2:hunter2@bucket/1.png",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert_eq!(error, BadUri::Userinfo, "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
        parsed("https://a.example/mail@example.png");
    }

    #[test]
    fn disguised_path_traversal_is_refused() {
        for path in [
            "..%2fsecret",
            "%2e%2e%2fsecret",
            "%2E%2E%5Csecret",
            "..%5csecret",
            "%252e%252e/secret",
            "%252e%252e%252fsecret",
            "%25252e%25252e/secret",
            "%2525252525252e",
            "..;/secret",
            "..;x=1/secret",
            "%2e%2e;/secret",
            "a%00b",
        ] {
            for root in ["https://a.example/pictures/", "s3://bucket/pictures/", "file:///data/"] {
                let text = format!("{root}{path}");
                let got = Location::parse(&text);
                assert!(matches!(got, Err(BadUri::Climbs | BadUri::File)), "{text}: {got:?}");
            }
        }
        parsed("https://a.example/pictures/..hidden/a..b/50%25.png");
    }

    #[test]
    fn plain_dot_segments_are_resolved_when_parsed() {
        for text in ["https://a.example/pictures/../secret", "https://a.example/pictures/%2e%2E/secret"] {
            assert_eq!(parsed(text).url().as_str(), "https://a.example/secret", "{text}");
        }
        assert_eq!(parsed("s3://bucket/pictures/../secret").key(), "secret");
    }

    #[test]
    fn ambiguous_and_unsupported_uris_are_refused() {
        for text in [
            "https:\\\\a.example\\1.png",
            "https://a.example\\@evil.example/1.png",
            "https://a.example/1.png\thttps://b.example/",
            "https://a.example /1.png",
            "https:a.example/1.png",
            "https:/a.example/1.png",
            "https:///a.example/1.png",
            "https://bücher.example/1.png",
            "ftp://a.example/1.png",
            "gopher://a.example/1.png",
            "data:image/png;base64,AAAA",
            "/pictures/1.png",
            "a.example/1.png",
            "s3://bucket",
            "s3://bucket/",
            "s3:///1.png",
            "s3://Bucket/1.png",
            "s3://bucket:80/1.png",
            "s3://bucket/1.png?versionId=1",
            "s3://../1.png",
            "file://host/1.png",
            "file:///1.png?x",
            "file:1.png",
            "",
        ] {
            assert!(Location::parse(text).is_err(), "{text} was taken");
        }
        let long = format!("https://a.example/{}", "a".repeat(MAX_BYTES));
        assert!(matches!(Location::parse(&long), Err(BadUri::TooLong(_))));
    }
}
