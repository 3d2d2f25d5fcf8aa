//! Instances of the services: processes of the binary under test, observed through their metrics.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::clock::Clock;
use crate::patience::{PATIENCE, eventually};
use crate::world::World;

/// The time without a heartbeat after which the group removes an instance.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// The timeout of a request to an instance.
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

/// The parameters for starting instances.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub binary: PathBuf,
    pub brokers: String,
    pub prefix: String,
    pub profile: &'static str,
    pub qdrant_url: String,
    /// The folder for their logs and other files.
    pub folder: PathBuf,
}

impl Recipe {
    pub fn new(binary: PathBuf, world: &World, profile: &'static str, folder: PathBuf) -> Self {
        let (brokers, prefix) = (world.kafka.brokers.clone(), world.kafka.prefix.as_str().to_owned());
        Self { binary, brokers, prefix, profile, qdrant_url: world.qdrant_url.clone(), folder }
    }

    /// The binary with the addresses of broker and index.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["--data-dir", &self.folder.join("data").to_string_lossy()])
            .env("UNPROMPT__KAFKA__BROKERS", &self.brokers)
            .env("UNPROMPT__KAFKA__PREFIX", &self.prefix)
            .env("UNPROMPT__KAFKA__PROFILE", self.profile)
            .env("UNPROMPT__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", SESSION_TIMEOUT.as_millis().to_string())
            .env("UNPROMPT__KAFKA__PROPERTIES__HEARTBEAT_INTERVAL_MS", "1000")
            .env("UNPROMPT__INDEX__URL", &self.qdrant_url)
            .stdin(Stdio::null());
        command
    }
}

/// A running service.
#[derive(Debug)]
pub struct Instance {
    pub name: String,
    child: Child,
    http: SocketAddr,
    log_path: PathBuf,
}

impl Instance {
    /// Starts `service`, by `clock` if there is one. A name that ends with `anonymous` gets no
    /// transactional id of its own.
    pub fn start(
        recipe: &Recipe,
        service: &'static str,
        name: &str,
        clock: Option<&Clock>,
    ) -> anyhow::Result<Self> {
        let mut command = recipe.command();
        command.args(["serve", service]);
        if !name.ends_with("anonymous") {
            command.env("UNPROMPT__KAFKA__INSTANCE", name);
        }
        if let Some(clock) = clock {
            clock.rule(&mut command);
        }
        Self::start_command(command, name, &recipe.folder)
    }

    /// Starts a command that takes `--http-port`; its log is in `logs`.
    pub fn start_command(mut command: Command, name: &str, logs: &Path) -> anyhow::Result<Self> {
        let port = unprompt_test_guarded::free_address().port();
        let log_path = logs.join(format!("{name}.log"));
        let log = File::options().append(true).create(true).open(&log_path)?;
        command.args(["--http-port", &port.to_string()]).stdout(Stdio::null()).stderr(log);
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("{} starts", program.display()))?;
        Ok(Self { name: name.to_owned(), child, http: ([127, 0, 0, 1], port).into(), log_path })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let (name, http, child, log) = (self.name.clone(), self.http, &mut self.child, &self.log_path);
        eventually(&format!("{name} is ready"), PATIENCE, || {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("its log is empty");
                bail!("{name} ended while starting: {status}: {last}");
            }
            Ok(get(http, "/readyz").is_ok_and(|(status, _)| status == 200))
        })
        .await
    }

    /// The exit status, if it has ended by itself.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn is_ready(&self) -> bool {
        get(self.http, "/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// A metric, summed over its labels; `None` if the instance does not answer.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = get(self.http, "/metrics").ok()?;
        let lines = body.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    pub fn batches_in_flight(&self) -> u64 {
        self.metric("unprompt_batches_in_flight").unwrap_or_default() as u64
    }

    /// Sends a signal by its name, such as `KILL`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status()?;
        ensure!(sent.success(), "{} is not running", self.name);
        Ok(())
    }

    /// Waits until it ends.
    pub async fn end(mut self) -> anyhow::Result<ExitStatus> {
        let mut status = None;
        let (name, child) = (self.name.clone(), &mut self.child);
        eventually(&format!("{name} ends"), PATIENCE, || {
            status = child.try_wait()?;
            Ok(status.is_some())
        })
        .await?;
        status.context("it has ended")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It may have ended already and then cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the status and the body.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).context("an answer has a status")?.parse()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
