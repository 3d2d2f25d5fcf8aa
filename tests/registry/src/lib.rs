//! A schema registry of a test's own: Apicurio Registry on a free port of 127.0.0.1, gone when the test ends, however it ends.
//! `make test` fetches it; `scripts/registry` knows how to start it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The longest a registry may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where Apicurio speaks Confluent's API.
const API: &str = "/apis/ccompat/v7";
/// Of the key store that a registry with TLS makes itself.
const STORE_PASSWORD: &str = "changeit";

/// A running registry, or one that was stopped and can be started again on its data and port.
#[derive(Debug)]
pub struct Registry {
    data: TempDir,
    address: SocketAddr,
    is_encrypted: bool,
    /// What the guard is told beside.
    set: fn(&mut Command) -> &mut Command,
    guard: Option<Guard>,
}

/// The process that ends the registry when its standard input closes.
#[derive(Debug)]
struct Guard {
    process: Child,
    _open: Option<ChildStdin>,
}

impl Registry {
    /// Starts a registry and waits until it answers.
    pub fn start() -> Self {
        Self::started(false, |guard| guard)
    }

    /// The same over HTTPS only, with a certificate that [`Self::certificate`] alone vouches for.
    pub fn start_encrypted() -> Self {
        Self::started(true, |guard| guard)
    }

    /// The registry that the tests of one process share; they keep apart by subjects of their own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Registry> = OnceLock::new();
        // What is static is never dropped, so its guard removes the data.
        SHARED.get_or_init(|| Self::started(false, |guard| guard.env("REGISTRY_THROW_AWAY", "1")))
    }

    fn started(is_encrypted: bool, set: fn(&mut Command) -> &mut Command) -> Self {
        let data = TempDir::new().expect("a temporary folder");
        let mut registry = Self { data, address: free_address(), is_encrypted, set, guard: None };
        let properties = if is_encrypted { registry.encryption() } else { registry.plain() };
        let folder = registry.data.path().join("config");
        fs::create_dir_all(&folder).expect("a folder can be made");
        fs::write(folder.join("application.properties"), properties).expect("properties can be written");
        registry.start_again();
        registry
    }

    /// The address to configure, `http://127.0.0.1:port/apis/ccompat/v7`.
    pub fn url(&self) -> String {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        format!("{scheme}://{}{API}", self.address)
    }

    /// Its certificate, which is its own authority (PEM).
    pub fn certificate(&self) -> PathBuf {
        self.data.path().join("certificate.pem")
    }

    /// Starts it on the data and the port that it had.
    pub fn start_again(&mut self) {
        assert!(self.guard.is_none(), "the registry is running");
        let _ = fs::remove_file(self.pid_file());
        let log = fs::File::create(self.log()).expect("a log can be made");
        let mut guard = script("guard");
        let mut process = (self.set)(&mut guard)
            .arg(self.data.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("scripts/registry starts");
        let open = process.stdin.take();
        self.guard = Some(Guard { process, _open: open });
        self.wait("answer", || self.is_up());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.wait("name its process", || self.pid_file().exists());
        let pid = fs::read_to_string(self.pid_file()).expect("the registry's process is known");
        let sent = Command::new("kill").args(["-KILL", pid.trim()]).status();
        assert!(sent.expect("kill runs").success(), "the registry is not running");
        self.wait("end", || TcpStream::connect(self.address).is_err());
        self.drop_guard();
    }

    fn plain(&self) -> String {
        let address = self.address;
        format!("quarkus.http.host={}\nquarkus.http.port={}\n", address.ip(), address.port())
    }

    /// Makes a key with a certificate for 127.0.0.1; the JDK brings the tool.
    fn encryption(&self) -> String {
        let store = self.data.path().join("keys.p12");
        let tool = |arguments: &[&str]| {
            let mut tool = Command::new("keytool");
            tool.args(arguments).arg("-keystore").arg(&store).args(["-storepass", STORE_PASSWORD]);
            let made = tool.output().expect("keytool runs");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
            made.stdout
        };
        let name = ["-dname", "CN=registry", "-ext", "SAN=ip:127.0.0.1"];
        tool(
            &[&["-genkeypair", "-alias", "registry", "-keyalg", "EC", "-validity", "30"], &name[..]].concat(),
        );
        let certificate = tool(&["-exportcert", "-rfc", "-alias", "registry"]);
        fs::write(self.certificate(), certificate).expect("the certificate can be written");
        let address = self.address;
        format!(
            "quarkus.http.host={}\nquarkus.http.ssl-port={}\nquarkus.http.insecure-requests=disabled\n\
             quarkus.http.ssl.certificate.key-store-file={}\n\
             quarkus.http.ssl.certificate.key-store-password={STORE_PASSWORD}\n",
            address.ip(),
            address.port(),
            store.display()
        )
    }

    /// It listens last of all; only what is not encrypted is asked besides.
    fn is_up(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        if self.is_encrypted {
            return true;
        }
        let asked = write!(stream, "GET {API}/subjects HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            assert!(
                started.elapsed() < PATIENCE,
                "the registry did not {what} within {PATIENCE:?}:\n{}",
                log()
            );
            sleep(Duration::from_millis(100));
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.data.path().join("pid")
    }

    fn log(&self) -> PathBuf {
        self.data.path().join("log")
    }

    fn drop_guard(&mut self) {
        if let Some(Guard { mut process, _open }) = self.guard.take() {
            // Its standard input closes here, and so it ends; the data must not go before.
            drop(_open);
            let _ = process.wait();
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.drop_guard();
    }
}

fn script(command: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut script = Command::new(root.join("scripts/registry"));
    script.arg(command).arg(folder());
    script
}

/// Where `make test` puts the registry: $UNPROMPT_TEST_REGISTRY, or the user's cache.
fn folder() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let made = || cache.unwrap_or_else(home).join("unprompt/registry");
    let folder = std::env::var_os("UNPROMPT_TEST_REGISTRY").map(PathBuf::from).unwrap_or_else(made);
    assert!(
        folder.is_dir(),
        "{} is not there; `make test` fetches a schema registry into it",
        folder.display()
    );
    folder
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}
