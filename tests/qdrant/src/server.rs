//! A process that serves a folder until it is killed: the caller's own test binary, run again with
//! one ignored test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use unprompt_embedded_index::EmbeddedIndex;

/// The variable that tells the process which folder to serve.
const FOLDER: &str = "UNPROMPT_TEST_INDEX_FOLDER";
const ADDRESS: &str = "address ";

/// A process that serves a folder until it is killed.
#[derive(Debug)]
pub struct KilledServer {
    child: Child,
    pub url: String,
}

impl KilledServer {
    /// Runs this test binary again with its ignored test `test`, which calls
    /// [`serve_until_killed`].
    pub fn start(folder: &Path, test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("the path of this binary"))
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let lines = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        // The test harness may have begun the line.
        let mut urls = lines
            .map_while(Result::ok)
            .filter_map(|line| line.split_once(ADDRESS).map(|(_, url)| url.to_owned()));
        let url = urls.next().expect("the server serves");
        Self { child, url }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("the server is killed");
        self.child.wait().expect("the server has ended");
    }
}

/// Serves the folder that [`KilledServer::start`] gave to this process; returns at once in any
/// other process.
pub async fn serve_until_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let index = EmbeddedIndex::start(Path::new(&folder), 0).await.expect("the endpoint starts");
    let mut output = std::io::stdout();
    writeln!(output, "{ADDRESS}{}", index.url())
        .and_then(|()| output.flush())
        .expect("the address is written");
    std::future::pending::<()>().await;
}
