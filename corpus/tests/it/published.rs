//! Published schemas are recognised without settings.

use unprompt_corpus::BadRow;
use unprompt_corpus::clean::Cleaning;
use unprompt_corpus::reader::{Format, Reading};
use unprompt_corpus::report::Reason;

use crate::samples::{
    coco, coyo, diffusion_db, entries, folder, lexica, options, prompts, rows, rows_as, run, texts_of,
    vizwiz, write,
};

#[test]
fn diffusiondb_gives_prompts_with_their_generation_settings() {
    let (folder, prompts) = (folder(), prompts(50));
    let rows = rows(&diffusion_db(folder.path(), &prompts));
    assert_eq!(texts_of(&rows), prompts);
    let row = &rows[3];
    assert_eq!((row.source.as_str(), row.created_at_ms), ("diffusiondb", Some(1_659_000_003_000)));
    let attributes: Vec<_> =
        row.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let wanted = [
        ("cfg", "7.5"),
        ("image_name", "00000003.png"),
        ("sampler", "8"),
        ("seed", "4000000003"),
        ("step", "50"),
    ];
    assert_eq!(attributes, wanted);
    assert!(row.seeds.is_empty(), "the seed of an existing picture is not a seed to generate");
    assert_eq!((row.scores.nsfw, rows[0].scores.nsfw), (Some(2.0), Some(f64::from(0.1_f32).min(0.1))));
}

#[test]
fn diffusiondb_json_files_next_to_the_pictures_are_read() {
    let folder = folder();
    let part = write(
        folder.path(),
        "part-000001.json",
        r#"{"a.png": {"p": "a red star", "se": 38753269, "c": 12.0, "st": 50, "sa": "k_lms"}, "b.png": {"p": "a blue house", "se": 1}}"#,
    );
    let rows = rows(&part);
    assert_eq!(texts_of(&rows), ["a red star", "a blue house"]);
    assert_eq!(
        (rows[0].attributes["image_name"].as_str(), rows[0].attributes["cfg"].as_str()),
        ("a.png", "12.0")
    );
    assert_eq!(rows[0].source, "diffusiondb");
}

#[test]
fn coyo_is_filtered_by_its_own_scores() {
    let (folder, prompts) = (folder(), prompts(40));
    let path = coyo(folder.path(), &prompts);
    let rows = rows(&path);
    assert_eq!(texts_of(&rows), prompts);
    assert_eq!(
        (rows[1].source.as_str(), rows[1].attributes["url"].as_str()),
        ("coyo-700m", "https://example.com/1.jpg")
    );
    assert_eq!(rows[1].attributes.len(), 1);
    assert!((rows[1].scores.nsfw.unwrap() - 0.03).abs() < 1e-6, "the higher of the two");

    let cleaning = Cleaning { min_similarity: Some(0.5), max_nsfw: Some(0.5), ..Cleaning::default() };
    let (kept, report) = run(options(&[&path], cleaning)).unwrap();
    assert_eq!(kept.len(), 20);
    assert_eq!(report.dropped[&Reason::Similarity].count, 20);
    let (kept, _) =
        run(options(&[&path], Cleaning { min_aesthetic: Some(6.0), ..Cleaning::default() })).unwrap();
    assert!(kept.is_empty());
}

#[test]
fn coco_gives_every_caption_with_its_image_id() {
    let (folder, prompts) = (folder(), prompts(30));
    let rows = rows(&coco(folder.path(), &prompts));
    assert_eq!(texts_of(&rows), prompts);
    assert!(rows.iter().all(|row| row.source == "coco"));
    assert_eq!(rows[9].attributes["image_id"], "4");
}

#[test]
fn vizwiz_captions_marked_as_rejected_are_bad_rows() {
    let (folder, prompts) = (folder(), prompts(30));
    let entries = entries(&vizwiz(folder.path(), &prompts), &Reading::default()).unwrap();
    let rejected = entries.iter().filter(|entry| entry.content == Err(BadRow::Rejected)).count();
    let kept: Vec<_> = entries.iter().filter_map(|entry| entry.content.as_ref().ok()).collect();
    assert_eq!((rejected, kept.len()), (6, 24));
    assert_eq!((kept[4].text.as_str(), kept[4].source.as_str()), (prompts[5].as_str(), "vizwiz"));
}

#[test]
fn lexica_is_read_from_an_api_response_and_from_a_bare_list() {
    let (folder, prompts) = (folder(), prompts(9));
    let path = lexica(folder.path(), &prompts);
    let rows = rows_as(&path, &Reading { format: Some(Format::Lexica), ..Reading::default() });
    assert_eq!(texts_of(&rows), prompts);
    assert_eq!((rows[0].source.as_str(), rows[0].attributes["seed"].as_str()), ("lexica", "1718"));
    assert_eq!((rows[1].scores.nsfw, rows[2].scores.nsfw), (Some(0.0), Some(1.0)));
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let bare = write(folder.path(), "bare.json", document["images"].to_string());
    assert_eq!(crate::samples::rows(&bare), rows);
}
