//! Prints prompts of the tiny world with their slots, one JSON object per line, for the training
//! scripts. It must only know how to call the grammar.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use serde::Serialize;
use unprompt_tiny_world::{Grammar, Scene, Split};

const USAGE: &str = "usage: tiny-world prompts [--split train|validation|held-out] [--seed N] \
                     [--count N] [--single-object]";

struct Request {
    split: Split,
    seed: u64,
    count: usize,
    single_object: bool,
}

#[derive(Serialize)]
struct Line {
    text: String,
    #[serde(flatten)]
    scene: Scene,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|request| print(&request)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request, String> {
    if arguments.next().as_deref() != Some("prompts") {
        return Err(USAGE.to_owned());
    }
    let mut request = Request { split: Split::Train, seed: 1, count: 10, single_object: false };
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{flag} wants a value\n{USAGE}"));
        match flag.as_str() {
            "--split" => request.split = value()?.parse()?,
            "--seed" => request.seed = number(&value()?)?,
            "--count" => request.count = number(&value()?)? as usize,
            "--single-object" => request.single_object = true,
            _ => return Err(format!("unknown flag {flag}\n{USAGE}")),
        }
    }
    Ok(request)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number\n{USAGE}"))
}

fn print(request: &Request) -> Result<(), String> {
    let scenes = Grammar::new(request.seed).scenes(request.split);
    let scenes = if request.single_object { scenes.single_object() } else { scenes };
    write(scenes.take(request.count)).map_err(|error| format!("cannot write to stdout: {error}"))
}

fn write(scenes: impl Iterator<Item = Scene>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for scene in scenes {
        serde_json::to_writer(&mut out, &Line { text: scene.prompt(), scene })?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
