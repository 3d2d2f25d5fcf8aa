//! A contender in its own process, killed at the end of its turn.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use unprompt_stream::KafkaConfig;

use super::{FROM, TO};

/// The program that passes records through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Ours {
        transactional: bool,
    },
    Bare {
        transactional: bool,
    },
    /// Kafka Streams with exactly_once_v2.
    Streams,
}

/// A running contender.
#[derive(Debug)]
pub struct Contender {
    child: Child,
    _state: TempDir,
}

impl Contender {
    /// Starts a contender that joins `group` and reads from the beginning.
    pub fn start(who: Who, kafka: &KafkaConfig, group: &str, streams: &Path) -> anyhow::Result<Self> {
        let state = TempDir::new()?;
        let mut command = match who {
            Who::Ours { transactional } => this("ours", kafka, group, transactional)?,
            Who::Bare { transactional } => this("bare", kafka, group, transactional)?,
            Who::Streams => {
                let mut java = Command::new("java");
                let class_path = format!("{0}/*:{0}", streams.display());
                java.args(["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &class_path])
                    .args(["PassThrough", &kafka.brokers, group])
                    .args([kafka.prefix.name(FROM), kafka.prefix.name(TO)])
                    .arg(state.path());
                java
            }
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { child, _state: state })
    }

    /// Returns whether it still runs.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // It may have ended already and then cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn this(who: &str, kafka: &KafkaConfig, group: &str, transactional: bool) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["pass", who, &kafka.brokers, kafka.prefix.as_str(), group]);
    if transactional {
        command.arg("--transactional");
    }
    Ok(command)
}
