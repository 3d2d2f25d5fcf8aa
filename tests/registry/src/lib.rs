//! A schema registry of a test: Apicurio Registry on a free port of 127.0.0.1, which ends even if
//! the test is killed. `make test` fetches it; `scripts/registry` starts it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;
use unprompt_test_guarded::{Guarded, free_address, installed, script};

/// The path of Confluent's API in Apicurio.
const API: &str = "/apis/ccompat/v7";
/// The password of the key store that a registry with TLS creates.
const STORE_PASSWORD: &str = "changeit";

/// A running registry, or one that was killed and can be started again on its data and port.
#[derive(Debug)]
pub struct TestRegistry {
    server: Guarded,
    is_encrypted: bool,
}

impl TestRegistry {
    /// Starts a registry and waits until it answers.
    pub fn start() -> Self {
        Self::started(prepared(plain), false)
    }

    /// Starts a registry with HTTPS only, whose certificate only [`Self::certificate`] verifies.
    pub fn start_encrypted() -> Self {
        Self::started(prepared(encrypted), true)
    }

    /// The registry shared by the tests of one process; each test uses its own subjects.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<TestRegistry> = OnceLock::new();
        SHARED.get_or_init(|| Self::started(prepared(plain).throwing_away(), false))
    }

    fn started(server: Guarded, is_encrypted: bool) -> Self {
        let mut registry = Self { server, is_encrypted };
        registry.start_again();
        registry
    }

    /// The address to configure, `http://127.0.0.1:port/apis/ccompat/v7`.
    pub fn url(&self) -> String {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        format!("{scheme}://{}{API}", self.server.address())
    }

    /// Its certificate, which is its own authority (PEM).
    pub fn certificate(&self) -> PathBuf {
        certificate(self.server.data())
    }

    /// Starts it on its previous data and port.
    pub fn start_again(&mut self) {
        let (address, is_encrypted) = (self.server.address(), self.is_encrypted);
        self.server.start(|| is_up(address, is_encrypted));
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.server.kill();
    }
}

/// A registry with these properties; it is not started yet.
fn prepared(properties: fn(&Path, SocketAddr) -> String) -> Guarded {
    let (data, address) = (TempDir::new().expect("a temporary folder"), free_address());
    let folder = data.path().join("config");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("application.properties"), properties(data.path(), address))
        .expect("properties can be written");
    let installed = installed("UNPROMPT_TEST_REGISTRY", "registry");
    let run = [script("registry"), "run".into(), installed, data.path().to_owned()];
    Guarded::new("the schema registry", data, address, run)
}

fn plain(_: &Path, address: SocketAddr) -> String {
    format!("quarkus.http.host={}\nquarkus.http.port={}\n", address.ip(), address.port())
}

/// Creates a key with a certificate for 127.0.0.1, using the JDK's keytool.
fn encrypted(data: &Path, address: SocketAddr) -> String {
    let store = data.join("keys.p12");
    let tool = |arguments: &[&str]| {
        let mut tool = Command::new("keytool");
        tool.args(arguments).arg("-keystore").arg(&store).args(["-storepass", STORE_PASSWORD]);
        let made = tool.output().expect("keytool runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        made.stdout
    };
    let name = ["-dname", "CN=registry", "-ext", "SAN=ip:127.0.0.1"];
    tool(&[&["-genkeypair", "-alias", "registry", "-keyalg", "EC", "-validity", "30"], &name[..]].concat());
    let made = tool(&["-exportcert", "-rfc", "-alias", "registry"]);
    fs::write(certificate(data), made).expect("the certificate can be written");
    format!(
        "quarkus.http.host={}\nquarkus.http.ssl-port={}\nquarkus.http.insecure-requests=disabled\n\
         quarkus.http.ssl.certificate.key-store-file={}\n\
         quarkus.http.ssl.certificate.key-store-password={STORE_PASSWORD}\n",
        address.ip(),
        address.port(),
        store.display()
    )
}

fn certificate(data: &Path) -> PathBuf {
    data.join("certificate.pem")
}

/// Returns whether the registry is up. Listening is the last step of its start; without TLS it must
/// also answer a request.
fn is_up(address: SocketAddr, is_encrypted: bool) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    if is_encrypted {
        return true;
    }
    let asked = write!(stream, "GET {API}/subjects HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
}
