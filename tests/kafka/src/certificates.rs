//! Certificates of a test, made by the `openssl` command: an authority, and the certificates it
//! signs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The password of the key in [`Certificate::encrypted_key`].
pub const KEY_PASSWORD: &str = "kept-in-the-key-7f3a";

/// A certificate authority.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Its own certificate, which clients and brokers trust.
    pub file: PathBuf,
    key: PathBuf,
    folder: PathBuf,
}

/// A certificate with its key, each a PEM file.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub file: PathBuf,
    pub key: PathBuf,
    /// Both in one file, as Kafka expects its PEM key stores.
    pub store: PathBuf,
}

impl Authority {
    /// Creates an authority whose files are in `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        let (file, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        openssl(&[&new_certificate(name, &key, &file), "-addext keyUsage=keyCertSign"].join(" "));
        Self { file, key, folder: folder.to_owned() }
    }

    /// Issues a certificate for `name`, valid for `hosts` in openssl's syntax, such as
    /// `IP:127.0.0.1`.
    pub fn issue(&self, name: &str, hosts: &str) -> Certificate {
        let at = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        let (file, key, store) = (at("pem"), at("key"), at("store.pem"));
        let signed = format!("-CA {} -CAkey {}", self.file.display(), self.key.display());
        let named = format!("-addext subjectAltName={hosts} -addext basicConstraints=critical,CA:FALSE");
        openssl(&[&new_certificate(name, &key, &file), signed.as_str(), named.as_str()].join(" "));
        let read = |path: &Path| fs::read_to_string(path).expect("openssl has written it");
        fs::write(&store, read(&key) + &read(&file)).expect("a key store can be written");
        Certificate { file, key, store }
    }
}

impl Certificate {
    /// The same key, encrypted with [`KEY_PASSWORD`].
    pub fn encrypted_key(&self) -> PathBuf {
        let encrypted = self.key.with_extension("encrypted.key");
        let (from, to) = (self.key.display(), encrypted.display());
        openssl(&format!("pkcs8 -topk8 -v2 aes256 -in {from} -out {to} -passout pass:{KEY_PASSWORD}"));
        encrypted
    }
}

fn new_certificate(name: &str, key: &Path, file: &Path) -> String {
    let (key, file) = (key.display(), file.display());
    format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} -keyout {key} -out {file}"
    )
}

/// Runs openssl; returns its output. Arguments must not contain spaces.
pub(crate) fn openssl(arguments: &str) -> Vec<u8> {
    let run = Command::new("openssl").args(arguments.split(' ')).output();
    let run = run.expect("openssl runs; `make test` installs it (apt-get install openssl)");
    assert!(run.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}
