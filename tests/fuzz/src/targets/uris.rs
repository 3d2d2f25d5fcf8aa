//! URIs of pictures (claim check).

use crate::Target;

/// The source file itself, without the clients in its crate.
#[path = "../../../../services/image-encoder/src/claim_check/location.rs"]
#[allow(dead_code, reason = "only parsing is fuzzed")]
mod location;

use location::{BadUri, Location, Scheme};

/// A URI from a list.
pub const URI: Target = Target {
    name: "uri",
    run: |input| {
        let Ok(text) = str::from_utf8(input) else { return };
        let Ok(location) = Location::parse(text) else { return };
        let shown = location.to_string();
        assert!(!shown.contains(['?', '#']), "its query is shown");
        // The normalised URI may be longer, and then too long.
        match Location::parse(location.url().as_str()) {
            Err(BadUri::TooLong(_)) => {}
            again => assert_eq!(again.as_ref(), Ok(&location), "it is read otherwise again"),
        }
        match location.scheme() {
            Scheme::File => assert!(location.path().is_absolute(), "{shown} is no path"),
            Scheme::S3 => {
                assert!(!location.bucket().is_empty() && !location.key().is_empty(), "{shown} names nothing")
            }
            Scheme::Http => assert!(location.url().has_host(), "{shown} has no host"),
        }
    },
    seeds: || {
        let seeds = [
            "https://a.example:8443/pictures/1.png?X-Amz-Signature=abc#part",
            "http://[::1]/a%20b/%252e%252e/c.png",
            "s3://bucket/pictures/a%20b.png",
            "file:///data/pictures/1.png",
            "https://us:them@a.example/%2e%2e/1.png",
        ];
        seeds.map(|seed| seed.as_bytes().to_vec()).into()
    },
    // The text is copied a few times, and the limit on its length is 8 KiB.
    memory_bytes: |length| 1024 * 1024 + 4 * length as u64,
};
