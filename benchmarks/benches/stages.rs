//! Each stage alone, without a broker: records in, records out.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unprompt_benchmarks::{checkpoint, minilm, png, prompt_records, record};
use unprompt_generator::Generator;
use unprompt_image_encoder::ImageEncoder;
use unprompt_models::minilm::Engine;
use unprompt_models::picture::Limits;
use unprompt_models::stable_diffusion::GenerationParams;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Stage};
use unprompt_text_encoder::TextEncoder;

fn bench(c: &mut Criterion, name: &str, stage: &mut dyn Stage, batch: &[InputRecord]) {
    let mut group = c.benchmark_group("stage");
    group.sample_size(10).throughput(Throughput::Elements(batch.len() as u64));
    group.bench_function(name, |b| b.iter(|| black_box(stage.process(batch).unwrap())));
    group.finish();
}

fn stages(c: &mut Criterion) {
    let codec = Codec::single_object();
    let clip = checkpoint("clip");
    let mut text_encoder = TextEncoder::load(&minilm(), &clip, Engine::Auto, codec.clone()).unwrap();
    bench(c, "text-encoder/64 prompts", &mut text_encoder, &prompt_records(64, false).unwrap());
    let mut image_encoder = ImageEncoder::load(&clip, Limits::default(), codec.clone()).unwrap();
    let pictures: Vec<_> = (0..64).map(|at| record(Topic::Images, at, png(at))).collect();
    bench(c, "image-encoder/64 pictures", &mut image_encoder, &pictures);
    let params = GenerationParams::default();
    let mut generator = Generator::load(&checkpoint("sd2"), params, 16, codec).unwrap();
    bench(c, "generator/16 pictures", &mut generator, &prompt_records(16, true).unwrap());
}

criterion_group!(benches, stages);
criterion_main!(benches);
