//! The runner and the embedded broker: records of 1 kB and 100 kB through a stage that only copies.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_schemas::topics::Topic;
use unprompt_stream::pass_through::{self, PassThrough};
use unprompt_stream::{
    Health, KafkaConfig, OutputRecord, Publisher, RunnerConfig, Stage, Start, Tail, ensure_topics, run_stage,
};

const FROM: Topic = Topic::Images;
const TO: Topic = Topic::ImageEmbeddings;

/// Publishes `count` records and reads them at the other end.
async fn through(kafka: &KafkaConfig, publisher: &Publisher, tail: &mut Tail, count: usize, bytes: usize) {
    let records = (0..count).map(|at| OutputRecord {
        topic: FROM,
        key: Some(at.to_be_bytes().to_vec()),
        value: Some(vec![at as u8; bytes]),
        headers: Vec::new(),
    });
    let published = publisher.publish_many(records.collect::<Vec<_>>());
    let taken = async {
        for _ in 0..count {
            tail.next().await.unwrap();
        }
    };
    let (published, ()) = tokio::join!(published, taken);
    assert_eq!(published.unwrap(), count, "all records reach {}", kafka.brokers);
}

fn runner(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let broker = runtime.block_on(EmbeddedBroker::start(folder.path(), 0)).unwrap();
    let kafka = KafkaConfig::embedded(broker.brokers());
    runtime.block_on(ensure_topics(&kafka)).unwrap();
    let stop = CancellationToken::new();
    let (stage_kafka, stage_stop) = (kafka.clone(), stop.clone());
    let running = runtime.spawn(async move {
        let load = || Ok::<_, String>(Box::new(PassThrough) as Box<dyn Stage>);
        run_stage(
            &stage_kafka,
            RunnerConfig::default(),
            pass_through::SERVICE,
            load,
            stage_stop,
            Health::default(),
        )
        .await
    });
    let publisher = runtime.block_on(async { Publisher::new(&kafka) }).unwrap();
    let mut tail = runtime.block_on(Tail::new(&kafka, &[TO], Start::End)).unwrap();
    runtime.block_on(through(&kafka, &publisher, &mut tail, 100, 1_000));
    let mut group = c.benchmark_group("runner");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (name, count, bytes) in [("2,000 of 1 kB", 2_000, 1_000), ("200 of 100 kB", 200, 100_000)] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let started = Instant::now();
                for _ in 0..iterations {
                    runtime.block_on(through(&kafka, &publisher, &mut tail, count, bytes));
                }
                started.elapsed()
            });
        });
    }
    group.finish();
    stop.cancel();
    runtime.block_on(running).unwrap().unwrap();
    runtime.block_on(broker.stop()).unwrap();
}

criterion_group!(benches, runner);
criterion_main!(benches);
