//! Objects in object stores are read by range from a local test server; errors show no secrets.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use unprompt_corpus::source;

use crate::samples::{coyo, entries_of, folder, gzip, prompts, write};

/// Serves a folder's files over HTTP, with HEAD and ranges.
fn serve(folder: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            std::thread::spawn(move || answer_all(stream, &folder));
        }
    });
    address
}

fn answer_all(stream: TcpStream, folder: &Path) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = Vec::new();
        for line in reader.by_ref_lines() {
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        if head.is_empty() {
            return;
        }
        answer(&stream, folder, &head);
    }
}

/// Reads the lines of a request's head.
trait HeadLines {
    fn by_ref_lines(&mut self) -> impl Iterator<Item = String>;
}

impl<R: BufRead> HeadLines for R {
    fn by_ref_lines(&mut self) -> impl Iterator<Item = String> {
        std::iter::from_fn(move || {
            let mut line = String::new();
            let read = self.read_line(&mut line).unwrap_or(0);
            (read > 0).then(|| line.trim_end().to_owned())
        })
    }
}

fn answer(mut stream: &TcpStream, folder: &Path, head: &[String]) {
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    if let Some((bucket, query)) = path.split_once("?list-type=2") {
        let body = listing(&folder.join(bucket.trim_start_matches('/')), query);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all((head + &body).as_bytes());
        return;
    }
    let Ok(content) = std::fs::read(folder.join(path.trim_start_matches('/'))) else {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        return;
    };
    let range = head
        .iter()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let (status, part, extra) = match &range {
        Some(range) => {
            let (from, to) = range.split_once('-').unwrap();
            let (from, to) =
                (from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap().min(content.len() - 1));
            let extra = format!("Content-Range: bytes {from}-{to}/{}\r\n", content.len());
            ("206 Partial Content", content[from..=to].to_vec(), extra)
        }
        None => ("200 OK", content, String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"x\"\r\nLast-Modified: Wed, 25 Nov 2026 10:00:00 GMT\r\n{extra}\r\n",
        part.len()
    );
    let _ = stream.write_all(head.as_bytes());
    if method != "HEAD" {
        let _ = stream.write_all(&part);
    }
}

/// Returns S3's answer to a request for the keys below `prefix=…/`.
fn listing(bucket: &Path, query: &str) -> String {
    let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default();
    let prefix = prefix.replace("%2F", "/");
    let mut contents = String::new();
    for entry in std::fs::read_dir(bucket.join(&prefix)).into_iter().flatten().flatten() {
        let (name, size) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len());
        contents += &format!(
            "<Contents><Key>{prefix}{name}</Key><LastModified>2026-11-25T10:00:00.000Z</LastModified>\
             <ETag>\"x\"</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        );
    }
    format!("<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>")
}

/// The environment variable with the source for the test below.
const SOURCE: &str = "UNPROMPT_TEST_CORPUS_SOURCE";

#[test]
#[ignore = "run by the test below, with its own environment variables"]
fn one_source_in_this_environment() {
    let inputs = source::expand(&[std::env::var(SOURCE).unwrap()]).unwrap();
    for input in inputs {
        entries_of(&input).into_iter().for_each(|entry| println!("text: {}", entry.content.unwrap().text));
    }
}

#[test]
fn keys_prefixes_and_globs_of_s3_are_read_with_the_environments_credentials() {
    let folder = folder();
    let data = folder.path().join("bucket/data");
    std::fs::create_dir_all(&data).unwrap();
    for (name, content) in
        [("b.txt", "b"), ("a.jsonl", "{\"text\":\"a\"}"), ("c.png", "no text"), ("d.txt", "d")]
    {
        write(&data, name, content);
    }
    let address = serve(folder.path().to_owned());
    let read = |key: &str| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "remote::one_source_in_this_environment", "--ignored", "--nocapture"])
            .env(SOURCE, format!("s3://bucket/{key}"))
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_ENDPOINT", format!("http://{address}"))
            .env("AWS_ALLOW_HTTP", "true")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{key}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said.lines()
            .filter_map(|line| line.split_once("text: "))
            .map(|(_, text)| text.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(read("data/b.txt"), ["b"]);
    assert_eq!(read("data"), ["a", "b", "d"], "all files of a known format below a prefix, sorted");
    assert_eq!(read("data/"), ["a", "b", "d"]);
    assert_eq!(read("data/*.txt"), ["b", "d"]);
}

#[test]
fn parquet_and_packed_text_are_read_from_a_web_server() {
    let folder = folder();
    let prompts = prompts(60);
    coyo(folder.path(), &prompts);
    write(folder.path(), "p.txt.gz", gzip(prompts.join("\n").as_bytes()));
    let address = serve(folder.path().to_owned());
    for name in ["part-00000.parquet", "p.txt.gz"] {
        let inputs = source::expand(&[format!("http://{address}/{name}")]).unwrap();
        assert!(inputs[0].size.is_some());
        let texts: Vec<_> =
            entries_of(&inputs[0]).into_iter().map(|entry| entry.content.unwrap().text).collect();
        assert_eq!(texts, prompts, "{name}");
    }
}

#[test]
fn an_error_about_a_url_reveals_no_password_or_token() {
    let address = serve(folder().path().to_owned());
    let error = source::expand(&[format!("http://{address}/none.txt")]).unwrap_err().to_string();
    assert!(error.contains("none.txt") && error.contains("404"), "{error}");
    let error = source::expand(&[format!("http://user:secret@{address}/none.txt")]).unwrap_err().to_string();
    assert!(error.contains("password") && !error.contains("secret"), "{error}");
    let error = source::expand(&[format!("http://{address}/none.txt?token=secret")]).unwrap_err().to_string();
    assert!(error.contains("query") && !error.contains("secret"), "{error}");
}
