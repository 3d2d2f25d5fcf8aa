//! Compares our networks with sentence-transformers, transformers and diffusers on the same weights
//! and inputs, as recorded by models/tools/make_references.py. `UNPROMPT_PARITY_REPORT` names a
//! file for the figures.

use candle_core::{Device, Tensor};
use unprompt_models::encoder::{Precision, TextTower, VisionSettings, VisionTower};
use unprompt_models::metrics::cosine;
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_models::picture::{Limits, Preprocessor, decode};
use unprompt_models::stable_diffusion::{GenerationParams, Scheduler, StableDiffusion, VaeTiles};

use crate::common::{self, Reference};

/// The result of a comparison.
#[derive(Debug, Clone, serde::Serialize)]
struct Finding {
    model: String,
    reference: &'static str,
    /// The largest absolute difference of any value.
    max_abs: f64,
    /// The smallest cosine of any vector (or of the whole).
    cosine: f64,
    tolerance: String,
    pass: bool,
}

#[derive(Debug, Clone, Copy)]
enum Tolerance {
    Cosine(f64),
    MaxAbs(f64),
    CosineAndMaxAbs(f64, f64),
}

impl Finding {
    fn of(
        model: &str,
        reference: &'static str,
        ours: &[Vec<f32>],
        theirs: &[Vec<f32>],
        tolerance: Tolerance,
    ) -> Self {
        assert_eq!(ours.len(), theirs.len(), "{model}");
        let pairs = || ours.iter().zip(theirs);
        assert!(pairs().all(|(a, b)| a.len() == b.len()), "{model}");
        let difference = |(a, b): (&Vec<f32>, &Vec<f32>)| {
            a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, worse)
        };
        let max_abs = pairs().map(difference).fold(0.0, worse);
        let cosine = pairs().map(|(a, b)| f64::from(cosine(a, b))).fold(1.0, f64::min);
        let (tolerance, pass) = match tolerance {
            Tolerance::Cosine(least) => (format!("cosine >= {least}"), cosine >= least),
            Tolerance::MaxAbs(most) => (format!("max_abs <= {most}"), max_abs <= most),
            Tolerance::CosineAndMaxAbs(least, most) => {
                (format!("cosine >= {least}, max_abs <= {most}"), cosine >= least && max_abs <= most)
            }
        };
        Self { model: model.to_owned(), reference, max_abs, cosine, tolerance, pass }
    }
}

/// Returns the larger value; NaN counts as the largest.
fn worse(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

fn minilm(engine: Engine) -> Finding {
    let folder = common::minilm_folder();
    let reference = Reference::read("minilm");
    reference.must_be_of(&folder);
    let texts = common::texts("texts.json");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let ours = MiniLm::load(&folder, engine).unwrap().embed(&texts).unwrap();
    let theirs = reference.rows("vectors");
    // bf16 keeps 8 bits of a weight. The worst of these texts have one or two tokens, whose errors
    // are not averaged out by a mean.
    let least = if engine == Engine::OpenVinoBf16 { 0.9995 } else { 0.9999 };
    let name = format!("minilm ({engine})");
    Finding::of(&name, "sentence-transformers f32", &ours, &theirs, Tolerance::Cosine(least))
}

#[cfg(feature = "onnx")]
#[test]
fn bf16_costs_minilm_less_than_a_ten_thousandth_of_cosine() {
    if !common::engines().contains(&Engine::OpenVinoBf16) {
        unprompt_test_skipped::skipped("this machine has no OpenVINO engine with bf16");
        return;
    }
    let texts = common::texts("texts.json");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let engine = MiniLm::load(&common::minilm_folder(), Engine::OpenVinoBf16);
    let (ours, theirs) = (engine.unwrap().embed(&texts).unwrap(), Reference::read("minilm").rows("vectors"));
    let sum: f64 = ours.iter().zip(&theirs).map(|(a, b)| f64::from(cosine(a, b))).sum();
    assert!(sum / texts.len() as f64 > 0.9999, "the mean cosine is {}", sum / texts.len() as f64);
}

/// All towers run except one: it is untrained with norms after its layers, which amplifies every
/// rounding error, so it must be refused.
#[cfg(feature = "onnx")]
#[test]
fn towers_run_in_8_bits_or_are_refused() {
    let pictures: Vec<_> = pictures(".png").into_iter().map(|(_, picture)| picture).collect();
    for (name, library, _) in ENCODERS {
        let (folder, reference) = (common::reference_folder().join(name), Reference::read(name));
        let tower =
            VisionTower::load(&folder, &VisionSettings { engine: Engine::Int8, ..Default::default() });
        if name == "encoders/eva02-e" {
            let error = tower.unwrap_err().to_string();
            assert!(error.contains("int8 computes wrong vectors here"), "{error}");
            continue;
        }
        let tower = tower.unwrap_or_else(|error| panic!("{name}: {error}"));
        let pixels: Vec<_> = pictures.iter().map(|picture| tower.preprocess(picture)).collect();
        let ours = tower.embed(&pixels.iter().collect::<Vec<_>>()).unwrap();
        let theirs = reference.rows(&format!("vision-{}", tower.side()));
        let finding = Finding::of(name, library, &ours, &theirs, Tolerance::Cosine(0.99));
        assert!(finding.pass && finding.max_abs > 1e-3, "int8 is near f32 but not equal: {finding:?}");
        if reference.has("text") {
            TextTower::load(&folder, Engine::Int8).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

fn clip_text(engine: Engine) -> Finding {
    let folder = common::checkpoint("clip");
    let reference = Reference::read("clip");
    reference.must_be_of(&folder);
    let texts = common::texts("clip-texts.json");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let ours = TextTower::load(&folder, engine).unwrap().embed(&texts).unwrap();
    let (name, theirs) = (format!("clip text tower ({engine})"), reference.rows("text"));
    Finding::of(&name, "transformers f32", &ours, &theirs, Tolerance::Cosine(0.9999))
}

fn clip_vision(engine: Engine) -> Finding {
    let folder = common::checkpoint("clip");
    let reference = Reference::read("clip");
    reference.must_be_of(&folder);
    let settings = VisionSettings { engine, ..Default::default() };
    let vision = VisionTower::load(&folder, &settings).unwrap();
    let pixels: Vec<_> = pictures(".png").iter().map(|(_, picture)| vision.preprocess(picture)).collect();
    let vision = vision.embed(&pixels.iter().collect::<Vec<_>>()).unwrap();
    let theirs = reference.rows("vision");
    let name = format!("clip vision tower ({engine})");
    Finding::of(&name, "transformers f32", &vision, &theirs, Tolerance::Cosine(0.9999))
}

/// The families of image encoders: for each a small untrained model, the library it is compared
/// with, and the side it was made for.
const ENCODERS: [(&str, &str, usize); 8] = [
    ("encoders/clip", "transformers f32", 32),
    ("encoders/clip-gelu", "transformers f32", 40),
    ("encoders/open-clip", "open_clip f32", 32),
    ("encoders/convnext", "open_clip and timm f32", 64),
    ("encoders/eva02-l", "open_clip and timm f32", 32),
    ("encoders/eva02-e", "open_clip and timm f32", 32),
    ("encoders/blip2-retrieval", "transformers f32", 32),
    ("encoders/blip2", "transformers f32", 32),
];

const F32: Tolerance = Tolerance::CosineAndMaxAbs(0.99999, 1e-3);

fn encoders() -> Vec<Finding> {
    let pictures: Vec<_> = pictures(".png").into_iter().map(|(_, picture)| picture).collect();
    ENCODERS
        .into_iter()
        .flat_map(|(name, library, side)| {
            let (folder, reference) = (common::reference_folder().join(name), Reference::read(name));
            reference.must_be_of(&folder);
            let vision = encoder_vision(name, library, side, &pictures);
            [vision, encoder_text(name, library, &folder, &reference)].concat()
        })
        .collect()
}

/// Compares a vision tower in f32 at the side it was made for and at other sides, in 16 bits, and
/// on the other engines.
fn encoder_vision(
    name: &'static str,
    library: &'static str,
    side: usize,
    pictures: &[image::RgbImage],
) -> Vec<Finding> {
    let (folder, reference) = (common::reference_folder().join(name), Reference::read(name));
    let finding = |settings: VisionSettings, tolerance| {
        let tower = VisionTower::load(&folder, &settings).unwrap();
        let pixels: Vec<_> = pictures.iter().map(|picture| tower.preprocess(picture)).collect();
        let ours = tower.embed(&pixels.iter().collect::<Vec<_>>()).unwrap();
        let theirs = reference.rows(&format!("vision-{}", tower.side()));
        let (at, precision) = (tower.side(), settings.precision);
        let label = format!("{name} vision tower at {at} ({}, {precision})", tower.engine_name());
        Finding::of(&label, library, &ours, &theirs, tolerance)
    };
    let candle = VisionSettings { engine: Engine::Candle, ..Default::default() };
    let sides = reference.names().into_iter().filter_map(|name| name.strip_prefix("vision-")?.parse().ok());
    let sized =
        |at: usize, settings: VisionSettings| VisionSettings { side: (at != side).then_some(at), ..settings };
    let sides: Vec<usize> = sides.collect();
    assert_eq!(sides.len(), 3, "{name} is compared at three sizes");
    let mut findings: Vec<_> = sides.iter().map(|&at| finding(sized(at, candle), F32)).collect();
    for precision in [Precision::Bf16, Precision::F16] {
        let found = finding(VisionSettings { precision, ..candle }, Tolerance::Cosine(0.999));
        // The weights are f16, so bf16 rounds them.
        assert_eq!(found.max_abs > 1e-4, precision == Precision::Bf16, "{found:?}");
        findings.push(found);
    }
    for engine in common::engines().into_iter().filter(|engine| *engine != Engine::Candle) {
        let tolerance = if engine == Engine::OpenVinoBf16 { Tolerance::Cosine(0.999) } else { F32 };
        let settings = VisionSettings { engine, ..candle };
        // This model is untrained with norms after its layers, which amplifies bf16's rounding
        // errors. At the other sides a bf16 engine is refused when it is loaded, as torch's would
        // be (with autocast, the cosine of one of the compared pictures is 0.96).
        let refused = |at: usize| (engine, name) == (Engine::OpenVinoBf16, "encoders/eva02-e") && at != side;
        let compared = sides.iter().filter(|&&at| !refused(at));
        findings.extend(compared.map(|&at| finding(sized(at, settings), tolerance)));
    }
    findings
}

fn encoder_text(
    name: &str,
    library: &'static str,
    folder: &std::path::Path,
    reference: &Reference,
) -> Vec<Finding> {
    if !reference.has("text") {
        let error = TextTower::load(folder, Engine::Candle).unwrap_err().to_string();
        assert!(error.contains("text tower"), "{error}");
        return Vec::new();
    }
    let texts: Vec<String> = serde_json::from_str(reference.metadata("texts")).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let finding = |engine| {
        let ours = TextTower::load(folder, engine).unwrap().embed(&texts).unwrap();
        let tolerance = if engine == Engine::OpenVinoBf16 { Tolerance::Cosine(0.999) } else { F32 };
        let label = format!("{name} text tower ({engine})");
        Finding::of(&label, library, &ours, &reference.rows("text"), tolerance)
    };
    common::engines().into_iter().map(finding).collect()
}

/// Reads the reference pictures whose names have this ending, sorted by name.
fn pictures(ending: &str) -> Vec<(String, image::RgbImage)> {
    let folder = std::fs::read_dir(common::reference_folder().join("pictures")).unwrap();
    let mut paths: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named = paths.iter().map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path));
    named
        .filter(|(name, _)| name.ends_with(ending))
        .map(|(name, path)| (name, decode(&std::fs::read(path).unwrap(), &Limits::default()).unwrap()))
        .collect()
}

fn preprocessor(side: usize) -> Preprocessor {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("preprocessor_config.json");
    std::fs::write(&path, format!(r#"{{"size": {{"shortest_edge": {side}}}, "crop_size": {side}}}"#))
        .unwrap();
    Preprocessor::load(&path).unwrap()
}

/// Scales levels to 0..1, the unit of the tolerance.
fn shares(levels: impl IntoIterator<Item = f32>) -> Vec<f32> {
    levels.into_iter().map(|level| level / 255.0).collect()
}

fn preprocessing() -> [Finding; 4] {
    let reference = Reference::read("preprocess");
    let levels = |picture: &image::RgbImage| shares(picture.as_raw().iter().map(|&level| f32::from(level)));
    let recorded = |key: String| shares(reference.values(&key).iter().copied());
    let (small, large) = (preprocessor(64), preprocessor(224));
    let lossless: Vec<_> = [pictures(".png"), pictures(".webp")].concat();
    let of = |ending: &str, ours: &dyn Fn(&image::RgbImage) -> Vec<f32>| {
        lossless
            .iter()
            .filter(|(name, _)| reference.has(&format!("{name}/{ending}")))
            .map(|(_, picture)| ours(picture))
            .collect::<Vec<_>>()
    };
    let theirs = |ending: &str| -> Vec<Vec<f32>> {
        let keys = lossless.iter().map(|(name, _)| format!("{name}/{ending}"));
        keys.filter(|key| reference.has(key)).map(&recorded).collect()
    };
    let jpegs = pictures(".jpg");
    let decoded: Vec<_> = jpegs.iter().map(|(_, picture)| levels(picture)).collect();
    let by_pillow: Vec<_> = jpegs.iter().map(|(name, _)| recorded(format!("{name}/decoded"))).collect();
    let level = Tolerance::MaxAbs(1.0 / 255.0 + 1e-6);
    let processor = "CLIPImageProcessor (Pillow)";
    [
        Finding::of("decoding of png and webp", "Pillow", &of("decoded", &levels), &theirs("decoded"), level),
        Finding::of(
            "decoding of jpeg",
            "Pillow (libjpeg-turbo)",
            &decoded,
            &by_pillow,
            Tolerance::Cosine(0.9999),
        ),
        Finding::of(
            "resize and crop to 64",
            processor,
            &of("64", &|picture| levels(&small.resize_and_crop(picture))),
            &theirs("64"),
            level,
        ),
        Finding::of(
            "resize and crop to 224",
            processor,
            &of("224", &|picture| levels(&large.resize_and_crop(picture))),
            &theirs("224"),
            level,
        ),
    ]
}

fn tensor(reference: &Reference, name: &str) -> Tensor {
    Tensor::from_slice(reference.values(name), reference.shape(name), &Device::Cpu).unwrap()
}

/// Returns each picture's values.
fn pictures_of(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.flatten_from(1).unwrap().to_vec2::<f32>().unwrap()
}

fn stable_diffusion(name: &'static str, folder: &std::path::Path) -> Vec<Finding> {
    let reference = Reference::read(name);
    reference.must_be_of(folder);
    let model = StableDiffusion::load(folder).unwrap();
    let prompts: Vec<String> = serde_json::from_str(reference.metadata("prompts")).unwrap();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let guidance: f64 = reference.metadata("guidance").parse().unwrap();
    let steps = reference.metadata("steps").parse().unwrap();
    let prediction = reference.metadata("prediction").to_owned();
    let initial = tensor(&reference, "initial");
    let denoise = |guidance_scale| {
        let params = GenerationParams { steps, guidance_scale, ..Default::default() };
        pictures_of(&model.denoise(&initial, &prompts, &params, &[]).unwrap())
    };
    let guided = tensor(&reference, "guided");
    let finding = |what: &str, ours: &[Vec<f32>], theirs: &str| {
        let theirs = pictures_of(&tensor(&reference, theirs));
        let label = format!("{what} ({prediction}, {name})");
        Finding::of(&label, "diffusers f32", ours, &theirs, Tolerance::MaxAbs(1e-3))
    };
    vec![
        finding(
            &format!("latents after {steps} DDIM steps, guidance {guidance}"),
            &denoise(guidance),
            "guided",
        ),
        finding(&format!("latents after {steps} DDIM steps, no guidance"), &denoise(1.0), "unguided"),
        finding(
            "decoded pictures",
            &pictures_of(&model.decode_values(&guided, VaeTiles::Auto).unwrap()),
            "decoded",
        ),
    ]
}

/// Compares decoding after `enable_tiling()`: with partial tiles in both directions, not square,
/// and small enough for one tile.
fn tiles() -> Vec<Finding> {
    let (folder, reference) = (common::checkpoint("sd2"), Reference::read("tiles"));
    reference.must_be_of(&folder);
    let model = StableDiffusion::load(&folder).unwrap();
    let finding = |size: &str, tiled: bool| {
        let latents = tensor(&reference, &format!("{size}/latents"));
        let decoded = |tiles| pictures_of(&model.decode_values(&latents, tiles).unwrap());
        let (ours, whole) = (decoded(VaeTiles::Always), decoded(VaeTiles::Never));
        assert_eq!(decoded(VaeTiles::Auto), whole, "{size}");
        assert_eq!(ours != whole, tiled, "{size}");
        let theirs = pictures_of(&tensor(&reference, &format!("{size}/decoded")));
        let label = format!("pictures decoded in tiles, {size} latents");
        Finding::of(&label, "diffusers f32", &ours, &theirs, Tolerance::MaxAbs(1e-4))
    };
    vec![finding("13x15", true), finding("7x20", true), finding("8x6", false)]
}

/// Compares 20 steps of every scheduler from the same latents, with a negative prompt.
fn schedulers() -> Vec<Finding> {
    let (folder, reference) = (common::checkpoint("sd2"), Reference::read("schedulers"));
    reference.must_be_of(&folder);
    let model = StableDiffusion::load(&folder).unwrap();
    let prompts: Vec<String> = serde_json::from_str(reference.metadata("prompts")).unwrap();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let (initial, noise) = (tensor(&reference, "initial"), tensor(&reference, "noise"));
    let steps: usize = reference.metadata("steps").parse().unwrap();
    let noises: Vec<Tensor> = (0..steps).map(|step| noise.get(step).unwrap()).collect();
    let finding = |scheduler: Scheduler| {
        let params = GenerationParams {
            scheduler,
            steps,
            guidance_scale: reference.metadata("guidance").parse().unwrap(),
            negative_prompt: reference.metadata("negative").to_owned(),
            ..Default::default()
        };
        let ours = pictures_of(&model.denoise(&initial, &prompts, &params, &noises).unwrap());
        let theirs = pictures_of(&tensor(&reference, scheduler.name()));
        let label = format!("latents after {steps} steps of {scheduler}, a negative prompt");
        Finding::of(&label, "diffusers f32", &ours, &theirs, Tolerance::MaxAbs(1e-3))
    };
    Scheduler::ALL.iter().copied().map(finding).collect()
}

#[test]
fn our_networks_match_the_reference_implementations() {
    let mut findings: Vec<Finding> = common::engines().into_iter().map(minilm).collect();
    findings.extend(preprocessing());
    findings.extend(common::engines().into_iter().map(clip_text));
    findings.extend(common::engines().into_iter().map(clip_vision));
    findings.extend(encoders());
    findings.extend(stable_diffusion("sd2", &common::checkpoint("sd2")));
    findings.extend(stable_diffusion("epsilon", &common::reference_folder().join("sd-epsilon")));
    findings.extend(tiles());
    findings.extend(schedulers());
    for finding in &findings {
        println!("{finding:?}");
    }
    if let Some(path) = std::env::var_os("UNPROMPT_PARITY_REPORT") {
        std::fs::write(path, serde_json::to_string_pretty(&findings).unwrap() + "\n").unwrap();
    }
    let failed: Vec<_> = findings.iter().filter(|finding| !finding.pass).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn normalised_pixels_match_clip_image_processor() {
    let (reference, small) = (Reference::read("preprocess"), preprocessor(64));
    for (name, picture) in [pictures("wide.png"), pictures("photo.webp")].concat() {
        let ours = small.run(&picture).values;
        let theirs = reference.values(&format!("{name}/normalised"));
        let most = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 1e-5, "{name}: {most}");
    }
}
