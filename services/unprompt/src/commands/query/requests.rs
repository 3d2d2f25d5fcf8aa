//! Builds search requests from flags.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, json};
use unprompt_index::SearchRequest;
use unprompt_jobs::query::{MAX_REQUEST_BYTES, RequestDefaults};

use crate::cli::Query;

/// Returns the search that the flags ask for.
pub fn of_flags(args: &Query) -> anyhow::Result<SearchRequest> {
    let by = &args.by;
    if let Some(file) = &by.request {
        let text = read_text(file)?;
        return defaults(args)?.parse(&text).with_context(|| file.display().to_string());
    }
    let mut object = Map::new();
    if let Some(text) = &by.text {
        object.insert("text".into(), json!(text));
    }
    if let Some(image) = &by.image {
        object.insert("image_file".into(), json!(image));
    }
    if let Some(id) = by.id {
        object.insert("like".into(), json!(id));
    }
    if let Some(vector) = &by.vector {
        object.insert("vector".into(), json!(read_vector(vector)?));
    }
    Ok(defaults(args)?.complete(object)?)
}

/// Returns the defaults that the flags set for every search.
pub fn defaults(args: &Query) -> anyhow::Result<RequestDefaults> {
    let mut object = Map::new();
    object.insert("limit".into(), json!(args.limit));
    object.insert("exact".into(), json!(args.exact));
    object.insert("with_vectors".into(), json!(args.with_vectors));
    object.insert("filter".into(), serde_json::to_value(args.filter.filter())?);
    let optional = [
        ("using", args.using.map(|space| json!(space.name()))),
        ("offset", args.offset.map(|offset| json!(offset))),
        ("threshold", args.threshold.map(|threshold| json!(threshold))),
        ("diversity", args.diversity().map(|diversity| json!(diversity))),
        ("ef", args.ef.map(|ef| json!(ef))),
    ];
    object.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    Ok(RequestDefaults::new(object).with_image_files())
}

fn read_vector(argument: &str) -> anyhow::Result<Vec<f32>> {
    let text = if argument == "-" { read_text(Path::new("-"))? } else { argument.to_owned() };
    serde_json::from_str(&text).context("--vector takes a JSON list of numbers, such as [0.1, -0.2, …]")
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(MAX_REQUEST_BYTES).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_REQUEST_BYTES).read_to_string(&mut text))
    };
    read.with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use unprompt_index::{Diversity, Picture, SearchTarget, Space};

    use super::*;
    use crate::cli::{Cli, Command};

    fn query(flags: &[&str]) -> Query {
        let line = ["unprompt", "query"].iter().chain(flags);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Query(query) => query,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_set_the_fields_of_the_request() {
        let flags = "--text star --using clip -n 5 --offset 10 --source a --not-source b --since 1970-01-02 \
                     --before 90000000 --min-length 3 --max-length 9 --attribute style=oil --attribute style=ink \
                     --words red --phrase star --contains ta --threshold -0.5 --exact --ef 77 --mmr 0.25 \
                     --with-vectors";
        let request = of_flags(&query(&flags.split_whitespace().collect::<Vec<_>>())).unwrap();
        assert_eq!(request.wanted, SearchTarget::Text("star".into()));
        assert_eq!((request.using, request.limit, request.offset), (Some(Space::Clip), 5, 10));
        assert_eq!((request.threshold, request.exact, request.ef), (Some(-0.5), true, Some(77)));
        assert_eq!(request.diversity, Some(Diversity::Mmr { lambda: 0.25, candidates: None }));
        assert_eq!(request.with_vectors, [Space::MiniLm, Space::Clip]);
        let filter = request.filter;
        assert_eq!((filter.sources.len(), filter.not_sources.len()), (1, 1));
        assert_eq!((filter.created_from_ms, filter.created_before_ms), (Some(86_400_000), Some(90_000_000)));
        assert_eq!((filter.min_length, filter.max_length), (Some(3), Some(9)));
        assert_eq!(filter.attributes["style"], ["oil", "ink"]);
        let texts = [filter.words, filter.phrase, filter.contains].map(Option::unwrap);
        assert_eq!(texts, ["red", "star", "ta"]);
    }

    #[test]
    fn a_batch_line_takes_missing_fields_from_the_flags() {
        let flags =
            query(&["--batch", "-", "-n", "3", "--source", "a", "--min-length", "5", "--group", "0.9"]);
        let request = defaults(&flags).unwrap().parse(r#"{"text": "x", "limit": 4}"#).unwrap();
        assert_eq!((request.limit, request.filter.min_length), (4, Some(5)));
        assert_eq!(request.filter.sources, ["a"]);
        assert_eq!(request.diversity, Some(Diversity::Group { similarity: 0.9 }));
    }

    #[test]
    fn an_image_file_is_read_into_the_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let request = of_flags(&query(&["--image", path.to_str().unwrap()])).unwrap();
        assert_eq!(request.wanted, SearchTarget::Picture(Picture(vec![1, 2, 3])));
    }
}
