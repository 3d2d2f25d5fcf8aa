//! The demo at a small size: end to end, counted and scored.

use serde_json::Value;

use crate::stack::unprompt;

#[test]
fn a_small_demo_loses_nothing_and_a_head_beats_the_mean_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("reports/demo.json");
    let status = unprompt()
        .args(["demo", "--once", "--prompts", "2000", "--pictures", "240", "--held-out", "60"])
        .args(["--broker-port", "0", "--index-port", "0", "--http-port", "0", "--data-dir"])
        .arg(folder.path())
        .arg("--report")
        .arg(&report)
        .status()
        .unwrap();
    assert!(status.success());
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert_eq!(number("prompts_indexed"), 2000);
    assert_eq!(number("images_generated"), 300);
    assert_eq!(number("train") + number("validation"), 240);
    assert_eq!(number("held_out"), 60);
    assert!(number("published") > 300, "the demo asks with one picture whether the head is in use");
    assert_eq!(number("predicted"), number("published"));
    assert_eq!((number("dead_letters"), number("lost")), (0, 0));
    let cosine = |way: &str| report["mean_cosine"][way].as_f64().unwrap();
    assert!(cosine("head") > cosine("mean_prompt") + 0.02, "{}", report["mean_cosine"]);
    assert!(cosine("blend") > cosine("mean_prompt") + 0.03, "{}", report["mean_cosine"]);
}
