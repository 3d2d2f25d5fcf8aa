//! An Apache Kafka of a test's own: one broker in KRaft mode on a free port of 127.0.0.1, gone when the test ends, however
//! it ends. `make test` fetches it; `scripts/kafka` knows how to start it.

pub mod certificates;
mod secure;
mod tokens;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use secure::{LIMITED_USER, PLAIN_USER, SCRAM_USER, SecureKafka};
pub use tokens::{CLIENT as TOKEN_CLIENT, Issuer};

/// The longest a broker may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running broker, or one that was stopped and can be started again on its data and port.
#[derive(Debug)]
pub struct Kafka {
    data: TempDir,
    address: SocketAddr,
    /// What the guard is told beside.
    set: fn(&mut Command) -> &mut Command,
    guard: Option<Guard>,
}

/// The process that ends the broker when its standard input closes.
#[derive(Debug)]
struct Guard {
    process: Child,
    _open: Option<ChildStdin>,
}

impl Kafka {
    /// Starts a broker and waits until it listens.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// [`Self::start`] with more lines for the broker's properties; a later line wins.
    pub fn start_with(properties: &str) -> Self {
        Self::started(properties, |guard| guard)
    }

    fn started(properties: &str, set: fn(&mut Command) -> &mut Command) -> Self {
        let data = TempDir::new().expect("a temporary folder");
        fs::write(data.path().join("extra.properties"), properties).expect("properties can be written");
        Self::on(data, free_address(), set)
    }

    /// A broker on files that are prepared.
    fn on(data: TempDir, address: SocketAddr, set: fn(&mut Command) -> &mut Command) -> Self {
        let mut kafka = Self { data, address, set, guard: None };
        kafka.start_again();
        kafka
    }

    /// The broker that the tests of one process share; they keep apart by a topic prefix of their own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        // What is static is never dropped, so its guard removes the data.
        SHARED.get_or_init(|| Self::started("", |guard| guard.env("KAFKA_THROW_AWAY", "1")))
    }

    /// Its address as clients want it, `127.0.0.1:port`.
    pub fn brokers(&self) -> String {
        self.address.to_string()
    }

    /// Starts it on the data and the port that it had.
    pub fn start_again(&mut self) {
        assert!(self.guard.is_none(), "the broker is running");
        let _ = fs::remove_file(self.pid_file());
        let log = fs::File::create(self.log()).expect("a log can be made");
        let mut guard = script("guard");
        let mut process = (self.set)(&mut guard)
            .arg(self.data.path())
            .arg(self.address.port().to_string())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("scripts/kafka starts");
        let open = process.stdin.take();
        self.guard = Some(Guard { process, _open: open });
        self.wait("listen", || TcpStream::connect(self.address).is_ok());
    }

    /// Ends it as an operator would, with SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        self.signal("TERM");
        self.ended();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.ended();
    }

    /// Runs one of Kafka's own tools, such as `org.apache.kafka.tools.ConsumerGroupCommand`.
    pub fn tool(class: &str, arguments: &[&str]) -> Output {
        script("tool").arg(class).args(arguments).output().expect("scripts/kafka runs")
    }

    fn signal(&self, name: &str) {
        let pid = fs::read_to_string(self.pid_file()).expect("the broker's process is known");
        let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.trim()).status();
        assert!(sent.expect("kill runs").success(), "the broker is not running");
    }

    fn ended(&mut self) {
        self.wait("end", || TcpStream::connect(self.address).is_err());
        if let Some(Guard { mut process, _open }) = self.guard.take() {
            drop(_open);
            let _ = process.wait();
        }
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "Kafka did not {what} within {PATIENCE:?}:\n{}", log());
            sleep(Duration::from_millis(100));
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.data.path().join("pid")
    }

    fn log(&self) -> PathBuf {
        self.data.path().join("log")
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(Guard { mut process, _open }) = self.guard.take() {
            // Its standard input closes here, and so it ends; the data must not go before.
            drop(_open);
            let _ = process.wait();
        }
    }
}

fn script(command: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut script = Command::new(root.join("scripts/kafka"));
    script.arg(command).arg(jars());
    script
}

/// Where `make test` puts Kafka: $UNPROMPT_TEST_KAFKA, or the user's cache.
fn jars() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let made = || cache.unwrap_or_else(home).join("unprompt/kafka");
    let jars = std::env::var_os("UNPROMPT_TEST_KAFKA").map(PathBuf::from).unwrap_or_else(made);
    assert!(jars.is_dir(), "{} is not there; `make test` fetches Apache Kafka into it", jars.display());
    jars
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}
