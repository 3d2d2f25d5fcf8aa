//! An issuer of OAuth 2.0 tokens (client credentials, RFC 6749, section 4.4): an endpoint that
//! gives a JSON Web Token to a client that knows the secret, and the keys with which a broker
//! verifies it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::certificates::openssl;

/// The client's id and secret.
pub const CLIENT: (&str, &str) = ("unprompt", "client-knows-19af");

/// A running issuer; it ends with the process.
#[derive(Clone, Debug)]
pub struct Issuer {
    endpoint: SocketAddr,
    keys: PathBuf,
}

impl Issuer {
    /// Starts an issuer whose files are in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let key = folder.join("issuer.key");
        openssl(&format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out {}", key.display()));
        let keys = folder.join("keys.json");
        fs::write(&keys, key_set(&key)).expect("a key set can be written");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = listener.local_addr().expect("its address");
        let (key, folder) = (Arc::new(key), Arc::new(folder.to_owned()));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (key, folder) = (key.clone(), folder.clone());
                thread::spawn(move || answer(client, &key, &folder));
            }
        });
        Self { endpoint, keys }
    }

    /// The URL of the token endpoint.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}/token", self.endpoint)
    }

    pub(crate) fn keys_url(&self) -> String {
        format!("file://{}", self.keys.display())
    }

    /// The option with the keys' URL: Kafka reads keys only from URLs permitted on its command
    /// line.
    pub(crate) fn java_option(&self) -> String {
        format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}", self.keys_url())
    }
}

/// Answers a token request; errors of a client that has disconnected are ignored.
fn answer(client: TcpStream, key: &Path, folder: &Path) {
    let Ok(reading) = client.try_clone() else { return };
    let authorised = format!("basic {}", base64(format!("{}:{}", CLIENT.0, CLIENT.1).as_bytes(), folder));
    let (status, body) = match authorization(&mut BufReader::new(reading)) {
        Some(sent) if sent == authorised => {
            ("200 OK", format!(r#"{{"access_token":"{}","token_type":"Bearer"}}"#, token(key, folder)))
        }
        _ => ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned()),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}");
    let _ = (&client).write_all(format!("{head}\r\nConnection: close\r\n\r\n{body}").as_bytes());
}

/// Reads a request; returns its authorization with the scheme in lower case.
fn authorization(request: &mut impl BufRead) -> Option<String> {
    let (mut found, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        request.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_lowercase().as_str() {
            "authorization" => {
                found = value.split_once(' ').map(|(s, c)| format!("{} {c}", s.to_lowercase()))
            }
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    request.take(length).read_to_end(&mut Vec::new()).ok()?;
    found
}

/// A token for [`CLIENT`] that is valid for an hour.
fn token(key: &Path, folder: &Path) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let (user, until) = (CLIENT.0, now + 3600);
    let claims = format!(r#"{{"sub":"{user}","aud":"kafka","scope":"all","iat":{now},"exp":{until}}}"#);
    let head = url_safe(base64(br#"{"alg":"RS256","kid":"test"}"#, folder));
    let signed = format!("{head}.{}", url_safe(base64(claims.as_bytes(), folder)));
    let (unsigned, key) = (scratch(folder, signed.as_bytes()), key.display());
    let signature = openssl(&format!("dgst -sha256 -sign {key} {}", unsigned.display()));
    let _ = fs::remove_file(unsigned);
    format!("{signed}.{}", url_safe(base64(&signature, folder)))
}

/// The JSON Web Key Set (RFC 7517).
fn key_set(key: &Path) -> String {
    let modulus = openssl(&format!("rsa -in {} -noout -modulus", key.display()));
    let modulus = String::from_utf8(modulus).expect("hexadecimal digits");
    let digits = modulus.trim().trim_start_matches("Modulus=").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16);
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| byte(pair).expect("two digits")).collect();
    let modulus = url_safe(base64(&bytes, key.parent().expect("it is in a folder")));
    format!(
        r#"{{"keys":[{{"kty":"RSA","use":"sig","alg":"RS256","kid":"test","n":"{modulus}","e":"AQAB"}}]}}"#
    )
}

fn base64(bytes: &[u8], folder: &Path) -> String {
    let file = scratch(folder, bytes);
    let coded = openssl(&format!("base64 -A -in {}", file.display()));
    let _ = fs::remove_file(file);
    String::from_utf8(coded).expect("base64 is ASCII")
}

fn url_safe(coded: String) -> String {
    coded.trim().trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// Writes the bytes to a new file for openssl to read.
fn scratch(folder: &Path, bytes: &[u8]) -> PathBuf {
    let (_, file) = tempfile::NamedTempFile::new_in(folder).expect("a file").keep().expect("it stays");
    fs::write(&file, bytes).expect("it can be written");
    file
}
