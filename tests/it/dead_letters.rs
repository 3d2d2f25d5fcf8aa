//! Dead letters as an operator handles them: listed, shown, replayed after the cause is fixed,
//! purged.

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use unprompt_schemas::Uuid;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::OutputRecord;

use crate::stack::{Up, answer, picture_record, prompt_record, publish, read_until, talk, unprompt};

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_replayed_and_purged() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data);
    let first = b"this is no picture".to_vec();
    publish(&up.kafka, vec![picture_record(first.clone(), Uuid::from_u128(1))]).await;
    publish(&up.kafka, vec![picture_record(Vec::new(), Uuid::from_u128(2))]).await;
    read_until(&up.kafka, Topic::DeadLetters, "two dead letters", |records| records.len() == 2).await;

    let listed = |arguments: &[&str]| -> Vec<Value> {
        let said = answer(&data, &[&["--json", "dead-letters", "list"], arguments].concat());
        serde_json::from_str(&said).unwrap()
    };
    assert_eq!(listed(&[]).len(), 2);
    assert_eq!(listed(&["--service", "predictor"]).len(), 0);
    let one = listed(&["--code", "not-an-image"]).pop().unwrap();
    assert_eq!((one["service"].as_str(), one["topic"].as_str()), (Some("image-encoder"), Some("images.v1")));
    assert!(answer(&data, &["dead-letters", "list"]).contains("not-an-image"));

    let (position, file) = (one["position"].as_str().unwrap(), folder.path().join("value"));
    let shown = answer(&data, &["dead-letters", "show", position, "--out", file.to_str().unwrap()]);
    assert!(shown.contains("PNG"), "the whole reason is shown: {shown}");
    assert_eq!(std::fs::read(&file).unwrap(), first);
    assert!(!talk(&data, &["dead-letters", "show", "0:99999"]).status.success());

    let refused = talk(&data, &["dead-letters", "replay"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--all"));
    let replayed: Value =
        serde_json::from_str(&answer(&data, &["--json", "dead-letters", "replay", position])).unwrap();
    assert_eq!(replayed["published"], 1);
    let again =
        read_until(&up.kafka, Topic::DeadLetters, "the same once more", |records| records.len() == 3).await;
    assert_eq!(again.iter().filter(|record| record.value.as_deref() == Some(&first)).count(), 2);

    let refused = talk(&data, &["dead-letters", "purge"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("deletes 3 offsets"), "not without --yes: {said}");
    let mut purge = vec!["dead-letters", "purge", "--yes"];
    purge.extend(
        replayed["up_to"].as_array().unwrap().iter().flat_map(|at| ["--up-to", at.as_str().unwrap()]),
    );
    assert!(answer(&data, &purge).contains(": 2"), "it says how many");
    let rejected_again = listed(&[]);
    assert_eq!(rejected_again.len(), 1, "the rejection after the replay stays");
    assert_eq!(rejected_again[0]["code"], "not-an-image");
    answer(&data, &["dead-letters", "purge", "--yes"]);
    assert_eq!(listed(&[]).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_was_deleted_stays_deleted_when_its_dead_letter_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data);
    let prompt = |text: &str, seeds: i64| Prompt {
        text: text.into(),
        source: "test".into(),
        seeds: (0..seeds).collect(),
        ..Prompt::default()
    };
    // Too many pictures: it is indexed, and a dead letter of the generator.
    let greedy = prompt_record(&prompt("a greedy fish", 70));
    publish(&up.kafka, vec![greedy.clone()]).await;
    read_until(&up.kafka, Topic::DeadLetters, "a dead letter", |records| records.len() == 1).await;
    publish(&up.kafka, vec![OutputRecord { value: None, ..greedy }]).await;
    read_until(&up.kafka, Topic::PromptEmbeddings, "its deletion", |records| records.len() == 2).await;
    let replayed: Value =
        serde_json::from_str(&answer(&data, &["--json", "dead-letters", "replay", "--all"])).unwrap();
    assert_eq!(replayed["published"], 1);
    read_until(&up.kafka, Topic::PromptEmbeddings, "the replayed one", |records| records.len() == 3).await;
    publish(&up.kafka, vec![prompt_record(&prompt("a modest fish", 0))]).await;
    let found = || answer(&data, &["--json", "query", "--text", "a fish"]);
    let begun = std::time::Instant::now();
    while !found().contains("a modest fish") {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{}", found());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // Partitions of prompt-embeddings.v1 are indexed in any order; wait until all are indexed.
    read_until(&up.kafka, Topic::DeadLetters, "it is rejected again", |records| records.len() == 2).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(!found().contains("a greedy fish"), "it came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_dead_letters_than_one_chunk_are_each_replayed_once() {
    // Few enough that, even rejected twice, they are not a flood, which would stop the service.
    const LETTERS: usize = 90;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data);
    let picture = |at| picture_record(format!("no picture {at}").into_bytes(), Uuid::from_u128(at));
    publish(&up.kafka, (1..=LETTERS as u128).map(picture).collect()).await;
    read_until(&up.kafka, Topic::DeadLetters, "all rejected", |records| records.len() == LETTERS).await;
    let replayed: Value =
        serde_json::from_str(&answer(&data, &["--json", "dead-letters", "replay", "--all"])).unwrap();
    assert_eq!(replayed["published"], LETTERS);
    let rejected = read_until(&up.kafka, Topic::DeadLetters, "all rejected again", |records| {
        records.len() >= 2 * LETTERS
    });
    let mut times: HashMap<Option<Vec<u8>>, usize> = HashMap::new();
    rejected.await.into_iter().for_each(|record| *times.entry(record.value).or_default() += 1);
    assert_eq!(times.len(), LETTERS);
    assert!(times.values().all(|times| *times == 2), "{times:?}");
}

#[test]
fn a_first_ctrl_c_ends_a_command_that_waits_for_a_broker() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["list"][..], &["show", "0:0"], &["replay", "--all"]] {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let broker = silent.local_addr().unwrap().to_string();
        let mut command = unprompt();
        command
            .arg("--data-dir")
            .arg(folder.path())
            .args(["--kafka", &broker, "dead-letters"])
            .args(arguments);
        let waiting = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let _asked = silent.accept().unwrap();
        let told = Command::new("kill").args(["-INT", &waiting.id().to_string()]).status();
        assert!(told.unwrap().success());
        let ended = waiting.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{arguments:?}");
        assert!(said.contains("stopped while reading the dead letters"), "{arguments:?}: {said}");
    }
}
