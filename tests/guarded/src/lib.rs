//! A server of a test, with its own port and data, which ends even if the test is killed.
//!
//! `scripts/guard` ends the server when our end of its standard input closes, and when a signal
//! ends the guard, such as Ctrl-C for the process group (except SIGKILL, and signals that we ignore
//! ourselves). The server can be stopped, killed and started again. This crate must not know which
//! server it is.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

/// The timeout for a server to start or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// The variable that tells the guard to remove the data at the end.
const THROW_AWAY: &str = "GUARD_THROW_AWAY";

/// A running server, or one that was stopped and can be started again on its data and port.
#[derive(Debug)]
pub struct Guarded {
    /// Its name in messages.
    name: &'static str,
    data: TempDir,
    address: SocketAddr,
    /// The command of the server.
    command: Vec<OsString>,
    throws_away: bool,
    guard: Option<Guard>,
}

/// The process that ends the server when its standard input closes.
#[derive(Debug)]
struct Guard {
    process: Child,
    _open: Option<ChildStdin>,
}

impl Guarded {
    /// A server run by `command` that listens on `address`; it is not started yet.
    pub fn new<I: Into<OsString>>(
        name: &'static str,
        data: TempDir,
        address: SocketAddr,
        command: impl IntoIterator<Item = I>,
    ) -> Self {
        let command = command.into_iter().map(Into::into).collect();
        Self { name, data, address, command, throws_away: false, guard: None }
    }

    /// Makes the guard remove the data, for a server in a static: statics are never dropped.
    #[must_use]
    pub fn throwing_away(mut self) -> Self {
        self.throws_away = true;
        self
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the server on its data and port, and waits until `is_up`.
    pub fn start(&mut self, is_up: impl Fn() -> bool) {
        assert!(self.guard.is_none(), "{} is running", self.name);
        let _ = fs::remove_file(self.pid_file());
        let log = fs::File::create(self.log()).expect("a log can be made");
        let mut guard = Command::new(script("guard"));
        if self.throws_away {
            guard.env(THROW_AWAY, "1");
        }
        let mut process = guard
            .arg(self.data())
            .args(&self.command)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("scripts/guard starts");
        let open = process.stdin.take();
        self.guard = Some(Guard { process, _open: open });
        self.wait("come up", is_up);
    }

    /// Starts the server on its data and port if it has ended by itself.
    pub fn revive(&mut self, is_up: impl Fn() -> bool) {
        if !listens(self.address) {
            self.drop_guard();
            self.start(is_up);
        }
    }

    /// Stops the server with SIGTERM, as an operator would, and waits for its end.
    pub fn stop(&mut self) {
        self.signal("TERM");
        self.ended();
    }

    /// Kills the server with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.ended();
    }

    fn signal(&self, name: &str) {
        self.wait("name its process", || self.pid_file().exists());
        let pid = fs::read_to_string(self.pid_file()).expect("its process is known");
        let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.trim()).status();
        assert!(sent.expect("kill runs").success(), "{} is not running", self.name);
    }

    fn ended(&mut self) {
        self.wait("end", || !listens(self.address));
        self.drop_guard();
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            assert!(
                started.elapsed() < PATIENCE,
                "{} did not {what} within {PATIENCE:?}:\n{}",
                self.name,
                log()
            );
            sleep(Duration::from_millis(100));
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.data().join("pid")
    }

    fn log(&self) -> PathBuf {
        self.data().join("log")
    }

    fn drop_guard(&mut self) {
        if let Some(Guard { mut process, _open }) = self.guard.take() {
            // Closing its standard input ends it; wait, since the data must outlive it.
            drop(_open);
            let _ = process.wait();
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.drop_guard();
    }
}

/// Returns whether something listens on the address.
pub fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// The path of a script of the repository.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name)
}

/// The folder where `make test` puts a server: the one in `variable`, or `name` in the user's
/// cache.
pub fn installed(variable: &str, name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let made = || cache.unwrap_or_else(home).join("unprompt").join(name);
    let folder = std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(made);
    assert!(folder.is_dir(), "{} is not there; `make test` fetches {name} into it", folder.display());
    folder
}

/// Ports below those that Linux gives to outgoing connections, which could take a port before its
/// server listens there.
const PORTS: Range<u32> = 10_000..32_000;

/// Returns an address with a free port that this process did not get before.
pub fn free_address() -> SocketAddr {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Concurrent processes start at different ports.
    let next = NEXT.get_or_init(|| {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        AtomicU32::new(nanos.wrapping_add(std::process::id().wrapping_mul(7_919)))
    });
    loop {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from(([127, 0, 0, 1], port as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn free_addresses_are_distinct_and_below_the_ephemeral_ports() {
        let ports: BTreeSet<u16> = (0..200).map(|_| free_address().port()).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| PORTS.contains(&u32::from(*port))));
    }

    /// Returns whether the process `pid` exists.
    fn is_there(pid: &str) -> bool {
        let asked = Command::new("kill").args(["-0", pid]).stderr(Stdio::null()).status();
        asked.expect("kill runs").success()
    }

    #[test]
    fn a_signal_to_the_guard_ends_the_server_and_removes_its_data() {
        for signal in ["INT", "TERM", "HUP", "QUIT"] {
            let folder = TempDir::new().unwrap();
            let named = folder.path().join("pid");
            // Signals that the caller of the tests ignores, as under nohup, would be ignored by the
            // guard too.
            let mut guard = Command::new("env")
                .arg("--default-signal=HUP,INT,QUIT,TERM")
                .arg(script("guard"))
                .arg(folder.path())
                .args(["sleep", "600"])
                .env(THROW_AWAY, "1")
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            // Keeps its standard input open: `wait` would close it.
            let _open = guard.stdin.take();
            while !named.exists() {
                sleep(Duration::from_millis(10));
            }
            let pid = fs::read_to_string(&named).unwrap().trim().to_owned();
            assert!(is_there(&pid));
            let told = Command::new("kill").args([format!("-{signal}"), guard.id().to_string()]).status();
            assert!(told.unwrap().success());
            guard.wait().unwrap();
            assert!(!is_there(&pid), "the server lives on after SIG{signal}");
            assert!(!folder.path().exists(), "its data stays after SIG{signal}");
        }
    }
}
