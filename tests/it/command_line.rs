//! The commands, as a user runs them against a running stack.

use std::io::Write;
use std::process::Command;

use serde_json::Value;

use crate::stack::{Up, answer, get, png, talk, unprompt, wait_for};

#[test]
fn import_query_predict_publish_topics_and_doctor_answer_while_the_stack_is_up() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let up = Up::start(&data_dir);

    let prompts = answer(&data_dir, &["prompts", "sample", "-n", "300", "--seed", "9"]);
    let first: Value = serde_json::from_str(prompts.lines().next().unwrap()).unwrap();
    let text = first["text"].as_str().unwrap();
    let file = folder.path().join("p.jsonl");
    std::fs::write(&file, format!("{prompts}not json\n")).unwrap();
    let imported: Value =
        serde_json::from_str(&answer(&data_dir, &["--json", "prompts", "import", file.to_str().unwrap()]))
            .unwrap();
    assert_eq!((imported["published"].as_u64(), imported["skipped"].as_u64()), (Some(300), Some(1)));

    let hits: Value = wait_for("indexed prompts", || {
        let output =
            talk(&data_dir, &["--json", "query", "--text", text, "--source", "tiny-world", "-n", "3"]);
        let hits: Value = serde_json::from_slice(&output.stdout).ok()?;
        (hits.as_array().is_some_and(|hits| hits.len() == 3) && hits[0]["text"] == text).then_some(hits)
    });
    assert!(hits[0]["similarity"].as_f64().unwrap() > 0.999, "{hits}");
    let none: Value = serde_json::from_str(&answer(
        &data_dir,
        &["--json", "query", "--text", text, "--source", "elsewhere"],
    ))
    .unwrap();
    assert_eq!(none.as_array().map(Vec::len), Some(0), "a filter on another source finds nothing");
    let id = hits[0]["prompt_id"].as_str().unwrap();
    let like: Value =
        serde_json::from_str(&answer(&data_dir, &["--json", "query", "--id", id, "-n", "2"])).unwrap();
    assert!(
        like.as_array().unwrap().iter().all(|hit| hit["prompt_id"] != id),
        "a prompt is not its own neighbour"
    );

    let picture = folder.path().join("picture.png");
    std::fs::write(&picture, png(200, 30, 30)).unwrap();
    let picture = picture.to_str().unwrap();
    let prediction: Value =
        serde_json::from_str(&answer(&data_dir, &["--json", "predict", picture])).unwrap();
    assert_eq!(prediction["vector"].as_array().map(Vec::len), Some(384));
    assert!(!prediction["neighbours"].as_array().unwrap().is_empty());
    assert!(answer(&data_dir, &["predict", picture]).contains("similarity"));
    let by_image: Value =
        serde_json::from_str(&answer(&data_dir, &["--json", "query", "--image", picture])).unwrap();
    assert_eq!(
        by_image[0]["prompt_id"], prediction["neighbours"][0]["prompt_id"],
        "query and prediction agree"
    );
    let published = answer(&data_dir, &["publish", picture, "--wait"]);
    assert_eq!(published.lines().count(), 1);

    let bad = folder.path().join("bad.png");
    std::fs::write(&bad, b"no picture").unwrap();
    let refused = talk(&data_dir, &["predict", bad.to_str().unwrap()]);
    assert!(!refused.status.success() && !refused.stderr.is_empty(), "a bad picture is an error, not a wait");

    assert!(answer(&data_dir, &["topics", "list"]).contains("predictions.v1"));
    let tail = answer(&data_dir, &["topics", "tail", "predictions.v1", "--from-beginning", "-n", "1"]);
    let record: Value = serde_json::from_str(tail.lines().next().unwrap()).unwrap();
    assert_eq!(record["value"]["vector"].as_array().map(Vec::len), Some(384));
    let doctor = answer(&data_dir, &["doctor"]);
    assert!(doctor.contains('✔') && !doctor.contains('✖'), "{doctor}");
    let metrics = get(up.http, "/metrics").unwrap();
    assert!(metrics.contains("unprompt_"), "{metrics}");
    assert!(get(up.http, "/livez").unwrap().starts_with("HTTP/1.1 200"));

    let second = talk(&data_dir, &["up", "--broker-port", "0", "--index-port", "0", "--http-port", "0"]);
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && said.contains("in use"),
        "a second start says who holds the data: {said}"
    );
    assert!(up.terminate());
}

#[test]
fn completions_and_configuration_errors_need_no_server() {
    let folder = tempfile::tempdir().unwrap();
    assert!(answer(folder.path(), &["completions", "bash"]).contains("unprompt"));
    let mut config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    config.write_all(b"[runner]\nbatch_recrods = 3\n").unwrap();
    let output = talk(folder.path(), &["--config", config.path().to_str().unwrap(), "topics", "list"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("batch_recrods"), "{said}");
}

/// Whatever the mistake, and whatever value the wrong key has.
#[test]
fn a_misspelt_configuration_never_prints_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let headers = ("UNPROMPT__TELEMETRY__HEADERS", "authorization=Bearer hunter2");
    let properties = ("UNPROMPT__KAFKA__PROPERTIES", "sasl.password=hunter2");
    let unquoted = "[kafka.security]\npassword = hunter2\n";
    let misspelt = "[kafka]\nbrokers = \"127.0.0.1:1\"\n[kafka.properties]\n\"sasl.pasword\" = \"hunter2\"\n";
    let none = ("UNPROMPT__LOG__FORMAT", "text");
    for (text, (name, value), told) in [
        (unquoted, none, "line 2, column"),
        ("", headers, "telemetry.headers"),
        ("", properties, "kafka.properties"),
        (misspelt, none, "sasl.pasword"),
    ] {
        std::fs::write(&file, text).unwrap();
        for command in [&["doctor"][..], &["topics", "list"], &["serve", "generator", "--http-port", "0"]] {
            let output = unprompt()
                .args(["--log", "debug", "--data-dir"])
                .arg(folder.path().join("data"))
                .arg("--config")
                .arg(&file)
                .args(command)
                .env(name, value)
                .output()
                .unwrap();
            let printed = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&printed);
            assert!(!output.status.success() && said.contains(told), "{command:?}: {said}");
            assert!(!said.contains("hunter2"), "{command:?} printed the secret");
        }
    }
}

/// A bare picture published with kcat is answered under its given id.
#[test]
fn kcat_publishes_a_bare_picture() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let file = folder.path().join("p.txt");
    std::fs::write(&file, "a red star on a beach\na blue house in the snow\n").unwrap();
    answer(folder.path(), &["prompts", "import", file.to_str().unwrap()]);
    wait_for("an indexed prompt", || {
        let output = talk(folder.path(), &["--json", "query", "--text", "a red star"]);
        serde_json::from_slice::<Value>(&output.stdout).ok()?.as_array()?.first().map(|_| ())
    });
    let picture = folder.path().join("picture.png");
    std::fs::write(&picture, png(20, 30, 230)).unwrap();
    let status = Command::new("kcat")
        .args([
            "-P",
            "-b",
            &up.kafka.brokers,
            "-t",
            "images.v1",
            "-H",
            "ce_id=mine",
            "-H",
            "correlation-id=c-1",
        ])
        .arg(&picture)
        .status()
        .expect("kcat runs; `make test` installs it (apt-get install kcat)");
    assert!(status.success());
    let tail = answer(folder.path(), &["topics", "tail", "predictions.v1", "--from-beginning", "-n", "1"]);
    let record: Value = serde_json::from_str(tail.lines().next().unwrap()).unwrap();
    let wanted = unprompt_schemas::identity::image_id_of("mine").to_string();
    assert_eq!(record["value"]["image_id"], wanted);
    assert_eq!(record["headers"]["correlation-id"], "c-1");
}
