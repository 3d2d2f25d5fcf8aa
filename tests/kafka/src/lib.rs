//! An Apache Kafka of a test: one broker in KRaft mode on a free port of 127.0.0.1, which ends even
//! if the test is killed. `make test` fetches it; `scripts/kafka` starts it.

pub mod certificates;
mod secure;
mod tokens;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;
use unprompt_test_guarded::{Guarded, free_address, installed, listens, script};

pub use secure::{LIMITED_USER, PLAIN_USER, SCRAM_USER, SecureKafka};
pub use tokens::{CLIENT as TOKEN_CLIENT, Issuer};

/// A running broker, or one that was stopped and can be started again on its data and port.
#[derive(Debug)]
pub struct Kafka(Guarded);

impl Kafka {
    /// Starts a broker and waits until it listens.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// [`Self::start`] with more lines for the broker's properties; a later line wins.
    pub fn start_with(properties: &str) -> Self {
        Self::started(Self::with_properties(properties))
    }

    /// Starts a broker whose data are in a new folder in `parent`, which must outlive it.
    pub fn start_in(parent: &Path) -> Self {
        let data = TempDir::new_in(parent).expect("a temporary folder");
        Self::started(Self::on(data, free_address()))
    }

    fn with_properties(properties: &str) -> Guarded {
        let data = TempDir::new().expect("a temporary folder");
        fs::write(data.path().join("extra.properties"), properties).expect("properties can be written");
        Self::on(data, free_address())
    }

    /// A broker on prepared files; it is not started yet.
    fn on(data: TempDir, address: SocketAddr) -> Guarded {
        let (jars, folder, port) = (jars(), data.path().to_owned(), address.port().to_string());
        let run =
            [script("kafka").into_os_string(), "run".into(), jars, folder.into_os_string(), port.into()];
        Guarded::new("Apache Kafka", data, address, run)
    }

    fn started(guarded: Guarded) -> Self {
        let mut kafka = Self(guarded);
        kafka.start_again();
        kafka
    }

    /// The broker shared by the tests of one process; each test uses its own topic prefix.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::started(Self::with_properties("").throwing_away()))
    }

    /// Its address for clients, `127.0.0.1:port`.
    pub fn brokers(&self) -> String {
        self.0.address().to_string()
    }

    /// The folder of its data.
    pub fn data(&self) -> &Path {
        self.0.data()
    }

    /// Starts it on its previous data and port.
    pub fn start_again(&mut self) {
        let address = self.0.address();
        self.0.start(|| listens(address));
    }

    /// Starts it again if it has ended by itself, as Kafka does without space on its disk.
    pub fn revive(&mut self) {
        let address = self.0.address();
        self.0.revive(|| listens(address));
    }

    /// Stops it with SIGTERM, as an operator would, and waits for its end.
    pub fn stop(&mut self) {
        self.0.stop();
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.0.kill();
    }

    /// Runs one of Kafka's own tools, such as `org.apache.kafka.tools.ConsumerGroupCommand`.
    pub fn tool(class: &str, arguments: &[&str]) -> Output {
        let mut tool = Command::new(script("kafka"));
        tool.arg("tool").arg(jars()).arg(class).args(arguments).output().expect("scripts/kafka runs")
    }
}

fn jars() -> OsString {
    installed("UNPROMPT_TEST_KAFKA", "kafka").into_os_string()
}
