//! Tests of the properties that callers of Stable Diffusion rely on, mostly with an untrained model
//! of at most 14 x 10 latents.

use candle_core::{DType, Device, Tensor};
use unprompt_models::stable_diffusion::{
    GenerationError, GenerationParams, GenerationRequest, Precision, Scheduler, StableDiffusion, VaeTiles,
};

use crate::common;

fn model() -> StableDiffusion {
    StableDiffusion::load(&common::reference_folder().join("sd-epsilon")).unwrap()
}

fn request(prompt: &str, seed: u64) -> GenerationRequest {
    GenerationRequest { prompt: prompt.to_owned(), seed }
}

fn params() -> GenerationParams {
    GenerationParams { steps: 4, guidance_scale: 3.0, ..GenerationParams::default() }
}

#[test]
fn a_picture_is_the_same_alone_and_in_any_batch_whatever_the_scheduler() {
    let model = model();
    let requests: Vec<_> = (0..35).map(|i| request(&format!("a red circle number {i}"), i % 5)).collect();
    for &scheduler in Scheduler::ALL {
        let params = GenerationParams { scheduler, negative_prompt: "a star".to_owned(), ..params() };
        let together = model.generate(&requests, &params).unwrap();
        assert_eq!(together.len(), 35);
        for i in [0, 13, 34] {
            let alone = model.generate(&requests[i..=i], &params).unwrap();
            let (alone, together) = (alone[0].as_ref().unwrap(), together[i].as_ref().unwrap());
            assert_eq!(alone.dimensions(), (32, 32));
            let most = alone.as_raw().iter().zip(together.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(most <= Some(1), "{scheduler} {i}: {most:?}");
        }
    }
}

#[test]
fn sixteen_bit_precision_gives_nearly_the_same_picture() {
    let folder = common::reference_folder().join("sd-epsilon");
    let requests = [request("a red circle", 3)];
    let exact = model().generate(&requests, &params()).unwrap().remove(0).unwrap();
    for precision in [Precision::Bf16, Precision::F16] {
        let model = StableDiffusion::load_in(&folder, precision).unwrap();
        let picture = model.generate(&requests, &params()).unwrap().remove(0).unwrap();
        let differences = exact.as_raw().iter().zip(picture.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let mean = differences.sum::<f64>() / exact.as_raw().len() as f64;
        assert!(mean < 4.0, "{precision}: pictures differ by {mean} levels of 255");
        assert_ne!(model.identity(&params()), params().to_string());
    }
}

#[test]
fn a_finished_picture_is_resized_to_the_output_size() {
    let sized = GenerationParams { output: Some((20, 12)), ..params() };
    let picture = model().generate(&[request("a star", 1)], &sized).unwrap().remove(0).unwrap();
    assert_eq!(picture.dimensions(), (12, 20));
    let empty = GenerationParams { output: Some((0, 12)), ..params() };
    assert!(model().generate(&[request("a star", 1)], &empty).is_err());
}

#[test]
fn a_tiled_picture_does_not_depend_on_its_batch_and_is_identified_as_tiled() {
    let model = model();
    let tiled =
        GenerationParams { height: Some(40), width: Some(56), vae_tiles: VaeTiles::Always, ..params() };
    let whole = GenerationParams { vae_tiles: VaeTiles::Auto, ..tiled.clone() };
    let requests: Vec<_> = (0..9).map(|seed| request("a star", seed)).collect();
    let together = model.generate(&requests, &tiled).unwrap();
    let alone = model.generate(&requests[8..], &tiled).unwrap().remove(0).unwrap();
    let difference = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(difference(alone.as_raw(), together[8].as_ref().unwrap().as_raw()) <= 1);
    let untiled = model.generate(&requests[8..], &whole).unwrap().remove(0).unwrap();
    assert_eq!(untiled.dimensions(), alone.dimensions());
    assert_ne!(untiled, alone);
    assert_eq!(model.identity(&tiled), format!("tiled {tiled}"));
    assert_eq!(model.identity(&whole), whole.to_string());
    let small = GenerationParams { height: None, width: None, ..tiled };
    assert_eq!(model.identity(&small), small.to_string(), "it fits one tile");
}

/// Memory is counted on the decoding thread. The other threads hold only their patches of
/// convolutions.
#[test]
fn tiles_bound_memory_and_a_whole_picture_uses_the_estimated_memory() {
    let model = StableDiffusion::load(&common::checkpoint("sd2")).unwrap();
    let held = |side: usize, tiles| {
        let latents = Tensor::zeros((1, 8, side, side), DType::F32, &Device::Cpu).unwrap();
        let held = allocation_counter::measure(|| drop(model.decode_values(&latents, tiles).unwrap()));
        held.bytes_max as f64
    };
    let estimated = |side: usize| (8 * side * 8 * side * 2 * (16 + 16) * 4) as f64;
    let whole = held(32, VaeTiles::Never);
    assert!((0.8..1.1).contains(&(whole / estimated(32))), "{whole} bytes, not {}", estimated(32));
    let tiled = held(32, VaeTiles::Always);
    let most = estimated(8) * 1.1 + 3.0 * 4.0 * 3.0 * (8 * 32 * 8 * 32) as f64;
    assert!(tiled < most, "{tiled} bytes, and {whole} without tiles");
}

#[test]
fn seed_prompt_and_guidance_decide_the_picture() {
    let model = model();
    let make = |request: GenerationRequest, params: &GenerationParams| {
        model.generate(&[request], params).unwrap().remove(0).unwrap()
    };
    let first = make(request("a star", 1), &params());
    assert_eq!(first, make(request("a star", 1), &params()));
    assert_ne!(first, make(request("a star", 2), &params()));
    assert_ne!(first, make(request("a cube", 1), &params()));
    assert_ne!(first, make(request("a star", 1), &GenerationParams { guidance_scale: 9.0, ..params() }));
    let negative = GenerationParams { negative_prompt: "a cube".to_owned(), ..params() };
    assert_ne!(first, make(request("a star", 1), &negative));
}

#[test]
fn a_picture_has_the_requested_size_and_invalid_parameters_are_refused() {
    let model = model();
    let sized = GenerationParams { height: Some(56), width: Some(40), ..params() };
    let picture = model.generate(&[request("a star", 1)], &sized).unwrap().remove(0).unwrap();
    assert_eq!(picture.dimensions(), (40, 56));
    for wrong in
        [GenerationParams { height: Some(30), ..params() }, GenerationParams { steps: 0, ..params() }]
    {
        assert!(model.generate(&[request("a star", 1)], &wrong).is_err(), "{wrong}");
    }
    assert!(model.generate(&[], &params()).unwrap().is_empty());
}

#[test]
fn a_picture_with_non_finite_values_is_an_error() {
    let model = model();
    let absurd = GenerationParams { guidance_scale: 1e38, ..params() };
    let pictures = model.generate(&[request("a star", 1), request("a cube", 2)], &absurd).unwrap();
    assert_eq!(pictures[1], Err(GenerationError::NonFinite { seed: 2 }));
}

/// Copies the folder with one file changed.
fn changed(file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let source = common::reference_folder().join("sd-epsilon");
    for part in ["scheduler", "text_encoder", "tokenizer", "unet", "vae"] {
        std::fs::create_dir(copy.path().join(part)).unwrap();
        for entry in std::fs::read_dir(source.join(part)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, copy.path().join(part).join(path.file_name().unwrap())).unwrap();
        }
    }
    let text = std::fs::read_to_string(copy.path().join(file)).unwrap();
    assert!(text.contains(from), "{file} lacks {from}");
    std::fs::write(copy.path().join(file), text.replacen(from, to, 1)).unwrap();
    copy
}

#[test]
fn unsupported_or_invalid_settings_are_named_in_the_error() {
    for (file, from, to, named) in [
        (
            "unet/config.json",
            "\"dual_cross_attention\": false",
            "\"dual_cross_attention\": true",
            "dual_cross_attention",
        ),
        ("unet/config.json", "\"DownBlock2D\"", "\"AttnDownBlock2D\"", "AttnDownBlock2D"),
        ("unet/config.json", "\"cross_attention_dim\": 20", "\"cross_attention_dim\": 24", "unet"),
        ("vae/config.json", "\"act_fn\": \"silu\"", "\"act_fn\": \"mish\"", "mish"),
        (
            "scheduler/scheduler_config.json",
            "\"thresholding\": false",
            "\"thresholding\": true",
            "thresholding",
        ),
        ("text_encoder/config.json", "{", "[", "text_encoder/config.json"),
    ] {
        let folder = changed(file, from, to);
        let error = StableDiffusion::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named), "{file}: {error}");
    }
}

#[test]
fn a_missing_part_is_named() {
    let folder = changed("vae/config.json", "{", "{");
    std::fs::remove_file(folder.path().join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let error = StableDiffusion::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("vae/model.safetensors"), "{error}");
}
