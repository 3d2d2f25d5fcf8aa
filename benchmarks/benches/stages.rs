//! Each stage alone, without a broker: records in, records out. The output of one stage is the
//! input of the next.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use unprompt_benchmarks::{checkpoint, minilm, png, prompt_records, record};
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_generator::Generator;
use unprompt_image_encoder::{EncoderFolder, ImageEncoder};
use unprompt_index::{ConnectOptions, Layout, PromptIndex};
use unprompt_indexer::Indexer;
use unprompt_models::encoder::{TextTower, VisionSettings};
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_models::picture::Limits;
use unprompt_models::recipe::Retrieval;
use unprompt_models::stable_diffusion::{GenerationParams, Precision};
use unprompt_predictor::{Encoder, HeadRequirements, HeadStore, Predictor, Settings};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Outcome, Stage};
use unprompt_text_encoder::TextEncoder;

/// Prompts in the index that the predictor searches.
const INDEXED: usize = 5_000;

fn bench(c: &mut Criterion, name: &str, stage: &mut dyn Stage, batch: &[InputRecord]) {
    let mut group = c.benchmark_group("stage");
    group.sample_size(10).throughput(Throughput::Elements(batch.len() as u64));
    group.bench_function(name, |b| b.iter(|| black_box(stage.process(batch).unwrap())));
    group.finish();
}

/// The outputs of `stage` for `batch`, as records for the next stage.
fn outputs(stage: &mut dyn Stage, batch: &[InputRecord]) -> Vec<InputRecord> {
    let mut records = Vec::new();
    for outcome in stage.process(batch).unwrap() {
        let Outcome::Outputs(outputs) = outcome else { panic!("a record of the benchmark was rejected") };
        for output in outputs {
            let read = record(output.topic, records.len(), output.value.unwrap());
            records.push(InputRecord { key: output.key, headers: output.headers, ..read });
        }
    }
    records
}

fn stages(c: &mut Criterion) {
    let codec = Codec::single_object();
    let clip = checkpoint("clip");
    let mut text_encoder = TextEncoder::load(&minilm(), &clip, Engine::Auto, codec.clone()).unwrap();
    bench(c, "text-encoder/64 prompts", &mut text_encoder, &prompt_records(64, false).unwrap());
    let folder = EncoderFolder { folder: clip.clone(), settings: VisionSettings::default() };
    let mut image_encoder = ImageEncoder::load(&[folder], Limits::default(), codec.clone()).unwrap();
    let pictures: Vec<_> = (0..64).map(|at| record(Topic::Images, at, png(at))).collect();
    bench(c, "image-encoder/64 pictures", &mut image_encoder, &pictures);
    let params = GenerationParams::default();
    let mut generator = Generator::load(&checkpoint("sd2"), Precision::F32, params, 16, codec).unwrap();
    bench(c, "generator/16 pictures", &mut generator, &prompt_records(16, true).unwrap());
    let prompts = outputs(&mut text_encoder, &prompt_records(INDEXED, false).unwrap());
    let embeddings = outputs(&mut image_encoder, &pictures);
    index_stages(c, &prompts, &embeddings);
}

/// The two stages that use an index, on an embedded one.
fn index_stages(c: &mut Criterion, prompts: &[InputRecord], embeddings: &[InputRecord]) {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let served = runtime.block_on(EmbeddedIndex::start(folder.path(), 0)).unwrap();
    let connect =
        || runtime.block_on(PromptIndex::connect(&served.url(), ConnectOptions::default())).unwrap();
    let clip = TextTower::load(&checkpoint("clip"), Engine::Auto).unwrap();
    let minilm = MiniLm::load(&minilm(), Engine::Auto).unwrap();
    let encoder = clip.revision().to_string();
    let layout = Layout::new(encoder.clone(), clip.dims(), minilm.revision().to_string());
    let (codec, handle) = (Codec::single_object(), runtime.handle().clone());
    let mut indexer = Indexer::open(connect(), layout, codec.clone(), handle.clone()).unwrap();
    bench(c, "indexer/64 prompts", &mut indexer, &prompts[..64]);
    prompts.chunks(500).for_each(|chunk| drop(indexer.process(chunk).unwrap()));
    let settings = Settings { k: 120, neighbours: 10, retrieval: Retrieval::Clip, head_folders: Vec::new() };
    let (dims, minilm) = (clip.dims(), minilm.revision().to_string());
    let mut predictor = Predictor::new(
        connect(),
        HeadStore::new(HeadRequirements {
            encoder: encoder.clone(),
            dims,
            minilm: minilm.clone(),
            folders: Vec::new(),
        }),
        Encoder { pictures: encoder.clone(), prompts: encoder, dims, minilm },
        settings,
        codec,
        handle,
    );
    bench(c, "predictor/64 pictures among 5,000 prompts", &mut predictor, embeddings);
    drop((indexer, predictor));
    runtime.block_on(served.stop()).unwrap();
}

criterion_group!(benches, stages);
criterion_main!(benches);
