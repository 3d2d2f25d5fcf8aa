//! One report, as `--json` prints it, and the rates between two reports.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use unprompt_stream::health::ServiceState;
use unprompt_stream::{KafkaConfig, Observed, Reads, StreamError};

use super::prometheus::Sample;
use super::scrape::{ProcessStatus, Scrape};

/// The state of topics and services. Unknown values are null.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    pub at_ms: i64,
    pub kafka: Endpoint,
    /// The processes that were asked for health and metrics.
    pub http: Vec<Endpoint>,
    pub topics: Vec<TopicReport>,
    pub services: Vec<ServiceReport>,
    pub dead_letters: DeadLetters,
    #[serde(skip)]
    pub taken: Instant,
}

/// An endpoint that was asked.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    pub address: String,
    /// The reason if it did not answer.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct TopicReport {
    pub topic: String,
    pub partitions: usize,
    /// Offsets from the first one kept to the next one to be written. They count records, records
    /// removed by compaction, and a marker per transaction.
    pub offsets: i64,
    /// The number of offsets ever written.
    pub written: i64,
    pub offsets_per_s: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ServiceReport {
    pub service: String,
    pub group: String,
    /// Kafka's state of the group, such as `Stable`.
    pub group_state: Option<String>,
    pub members: Option<usize>,
    /// Offsets that are not committed yet, over all topics.
    pub lag: Option<i64>,
    pub lag_by_topic: BTreeMap<String, i64>,
    /// Offsets of records that retention deleted before the service committed them.
    pub expired: Option<i64>,
    /// The number of offsets ever committed.
    pub committed: Option<i64>,
    /// The health in each process that answered.
    pub health: Vec<ServiceState>,
    /// True if all of these processes are ready.
    pub ready: Option<bool>,
    pub records_in: Option<u64>,
    pub records_out: Option<u64>,
    pub dead_letters: Option<u64>,
    pub bytes_in_flight: Option<u64>,
    pub batches_in_flight: Option<u64>,
    pub in_per_s: Option<f64>,
    pub out_per_s: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct DeadLetters {
    /// Offsets of the topic, as in [`TopicReport::offsets`].
    pub offsets: Option<i64>,
    /// Records rejected since the start of the services that answered.
    pub by_code: Vec<CodeCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CodeCount {
    pub service: String,
    pub code: String,
    pub count: u64,
}

impl StatusReport {
    pub fn new(
        kafka: &KafkaConfig,
        services: &[Reads],
        observed: Result<Observed, StreamError>,
        scrapes: &[Scrape],
    ) -> Self {
        let error = observed.as_ref().err().map(ToString::to_string);
        let observed = observed.ok();
        let answers: Vec<&ProcessStatus> =
            scrapes.iter().filter_map(|scrape| scrape.answer.as_ref().ok()).collect();
        let metrics: Vec<&Sample> = answers.iter().flat_map(|answer| &answer.metrics).collect();
        let of_service = |(service, _): &Reads| {
            let health = answers.iter().filter_map(|answer| answer.health.get(*service).cloned()).collect();
            ServiceReport {
                group: kafka.group(service),
                health,
                service: (*service).to_owned(),
                ..Default::default()
            }
            .with_group(observed.as_ref())
            .with_metrics(&metrics)
        };
        Self {
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64),
            kafka: Endpoint { address: kafka.brokers.clone(), error },
            http: scrapes.iter().map(endpoint).collect(),
            services: services.iter().map(of_service).collect(),
            dead_letters: dead_letters(observed.as_ref(), &metrics),
            topics: observed.as_ref().map(topics).unwrap_or_default(),
            taken: Instant::now(),
        }
    }

    /// Adds the rates per second since an earlier report.
    pub fn with_rates_since(mut self, before: &Self) -> Self {
        let seconds = self.taken.saturating_duration_since(before.taken).as_secs_f64();
        for topic in &mut self.topics {
            let earlier = before.topics.iter().find(|earlier| earlier.topic == topic.topic);
            topic.offsets_per_s = rate(earlier.map(|topic| topic.written), Some(topic.written), seconds);
        }
        for service in &mut self.services {
            let Some(earlier) = before.services.iter().find(|earlier| earlier.service == service.service)
            else {
                continue;
            };
            let counted = rate(signed(earlier.records_in), signed(service.records_in), seconds);
            service.in_per_s = counted.or_else(|| rate(earlier.committed, service.committed, seconds));
            service.out_per_s = rate(signed(earlier.records_out), signed(service.records_out), seconds);
        }
        self
    }
}

fn endpoint(scrape: &Scrape) -> Endpoint {
    Endpoint { address: scrape.url.clone(), error: scrape.answer.as_ref().err().cloned() }
}

fn topics(observed: &Observed) -> Vec<TopicReport> {
    let topics = observed.topics.iter().map(|ends| TopicReport {
        topic: ends.name.clone(),
        partitions: ends.partitions.len(),
        offsets: ends.offsets(),
        written: ends.written(),
        offsets_per_s: None,
    });
    topics.collect()
}

fn dead_letters(observed: Option<&Observed>, metrics: &[&Sample]) -> DeadLetters {
    let ends = observed.and_then(|observed| {
        observed.topics.iter().find(|ends| ends.topic == unprompt_schemas::topics::Topic::DeadLetters)
    });
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for sample in metrics.iter().filter(|sample| sample.name == "unprompt_dead_letters_total") {
        *counts.entry((sample.label("service"), sample.label("code"))).or_default() += sample.value as u64;
    }
    let by_code = counts.into_iter().map(|((service, code), count)| CodeCount {
        service: service.to_owned(),
        code: code.to_owned(),
        count,
    });
    DeadLetters { offsets: ends.map(|ends| ends.offsets()), by_code: by_code.collect() }
}

impl ServiceReport {
    fn with_group(mut self, observed: Option<&Observed>) -> Self {
        let Some(observed) = observed else { return self };
        let Some(group) = observed.groups.iter().find(|group| group.service == self.service) else {
            return self;
        };
        let read = observed.topics.iter().filter(|ends| group.committed.contains_key(&ends.topic));
        self.lag_by_topic = read.map(|ends| (ends.name.clone(), group.lag(ends))).collect();
        self.lag = Some(self.lag_by_topic.values().sum());
        let read = observed.topics.iter().filter(|ends| group.committed.contains_key(&ends.topic));
        self.expired = Some(read.map(|ends| group.expired(ends)).sum());
        self.committed = Some(group.done());
        self.members = group.state.as_ref().map(|_| group.members.len());
        self.group_state = group.state.clone();
        self
    }

    fn with_metrics(mut self, metrics: &[&Sample]) -> Self {
        self.ready = (!self.health.is_empty()).then(|| self.health.iter().all(ServiceState::is_ready));
        // A counter is missing until it counts for the first time. If the service answered, it is
        // zero.
        let tells = !self.health.is_empty();
        let sum = |name: &str| {
            let ours = metrics.iter().filter(|s| s.name == name && s.label("service") == self.service);
            tells.then(|| ours.map(|sample| sample.value).sum::<f64>() as u64)
        };
        let (records_in, records_out) = (sum("unprompt_records_in_total"), sum("unprompt_records_out_total"));
        let dead_letters = sum("unprompt_dead_letters_total");
        let (bytes, batches) = (sum("unprompt_bytes_in_flight"), sum("unprompt_batches_in_flight"));
        (self.records_in, self.records_out, self.dead_letters) = (records_in, records_out, dead_letters);
        (self.bytes_in_flight, self.batches_in_flight) = (bytes, batches);
        self
    }
}

/// Returns the rate of a counter per second. None if the counter was reset in between.
fn rate(before: Option<i64>, now: Option<i64>, seconds: f64) -> Option<f64> {
    let gained = now? - before?;
    (gained >= 0 && seconds > 0.0).then(|| gained as f64 / seconds)
}

fn signed(count: Option<u64>) -> Option<i64> {
    count.and_then(|count| i64::try_from(count).ok())
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use unprompt_schemas::topics::Topic;
    use unprompt_stream::{GroupMember, GroupState, TopicEnds};

    use super::super::prometheus::samples;
    use super::*;

    const SERVICES: [Reads; 1] = [("image-encoder", &[Topic::Images])];

    fn observed(images: i64, committed: i64) -> Observed {
        let ends = |topic: Topic, high| TopicEnds {
            topic,
            name: topic.base_name().to_owned(),
            partitions: [(0, (0, high)), (1, (0, 0))].into(),
        };
        let group = GroupState {
            service: "image-encoder".into(),
            group: "unprompt-image-encoder".into(),
            state: Some("Stable".into()),
            members: vec![GroupMember { client_id: "unprompt".into(), host: "127.0.0.1".into() }],
            committed: [(Topic::Images, [(0, committed)].into())].into(),
        };
        Observed {
            topics: vec![ends(Topic::Images, images), ends(Topic::DeadLetters, 2)],
            groups: vec![group],
        }
    }

    fn scrape(metrics: &str) -> Scrape {
        let ready = ServiceState { topics: true, stage: true, partitions: true, failure: None };
        let health = [("image-encoder".to_owned(), ready)].into();
        Scrape { url: "http://a:1".into(), answer: Ok(ProcessStatus { health, metrics: samples(metrics) }) }
    }

    fn counted(records_in: u64, records_out: u64) -> String {
        format!(
            "unprompt_records_in_total{{service=\"image-encoder\"}} {records_in}\n\
             unprompt_records_out_total{{service=\"image-encoder\"}} {records_out}\n\
             unprompt_records_out_total{{service=\"predictor\"}} 1000\n\
             unprompt_dead_letters_total{{service=\"image-encoder\",code=\"truncated-image\"}} 2\n\
             unprompt_bytes_in_flight{{service=\"image-encoder\"}} 3145728\n\
             unprompt_batches_in_flight{{service=\"image-encoder\"}} 1\n"
        )
    }

    fn report(observed: Result<Observed, StreamError>, scrapes: &[Scrape]) -> StatusReport {
        StatusReport::new(&KafkaConfig::embedded("a:9092"), &SERVICES, observed, scrapes)
    }

    /// Returns the second of two reports, two seconds apart.
    pub fn second_look() -> StatusReport {
        let before = report(Ok(observed(10, 4)), &[scrape(&counted(4, 3))]);
        let mut now = report(Ok(observed(50, 44)), &[scrape(&counted(48, 43))]);
        now.taken = before.taken + Duration::from_secs(2);
        now.with_rates_since(&before)
    }

    pub fn while_all_is_away() -> StatusReport {
        let away = Scrape { url: "http://a:1".into(), answer: Err("connection refused".into()) };
        let error = StreamError::Stopped("asking Kafka for its topics");
        report(Err(error), &[away])
    }

    #[test]
    fn rates_are_computed_from_two_reports() {
        let report = second_look();
        assert_eq!(report.topics[0].offsets_per_s, Some(20.0));
        let service = &report.services[0];
        assert_eq!((service.in_per_s, service.out_per_s), (Some(22.0), Some(20.0)));
        assert_eq!((service.lag, service.members, service.ready), (Some(6), Some(1), Some(true)));
    }

    #[test]
    fn without_metrics_the_input_rate_comes_from_committed_offsets() {
        let before = report(Ok(observed(10, 4)), &[]);
        let mut now = report(Ok(observed(10, 10)), &[]);
        now.taken = before.taken + Duration::from_secs(3);
        let service = &now.with_rates_since(&before).services[0];
        assert_eq!((service.in_per_s, service.out_per_s), (Some(2.0), None));
        assert_eq!((service.ready, service.records_in), (None, None));
    }

    #[test]
    fn a_reset_counter_has_no_rate() {
        let before = report(Ok(observed(10, 4)), &[scrape(&counted(500, 500))]);
        let mut now = report(Ok(observed(10, 4)), &[scrape(&counted(3, 3))]);
        now.taken = before.taken + Duration::from_secs(1);
        let service = &now.with_rates_since(&before).services[0];
        assert_eq!(service.out_per_s, None);
        assert_eq!(service.in_per_s, Some(0.0), "committed offsets still give the rate");
    }

    #[test]
    fn an_unreachable_endpoint_has_an_error_and_its_values_are_unknown() {
        let report = while_all_is_away();
        assert!(report.kafka.error.is_some() && report.http[0].error.is_some());
        assert!(report.topics.is_empty());
        assert_eq!((report.services[0].lag, report.services[0].ready), (None, None));
        assert_eq!(report.dead_letters.offsets, None);
    }

    #[test]
    fn dead_letters_are_counted_by_service_and_code() {
        let two = report(Ok(observed(1, 1)), &[scrape(&counted(1, 1)), scrape(&counted(1, 1))]).dead_letters;
        assert_eq!(two.offsets, Some(2));
        let (service, code) = ("image-encoder".to_owned(), "truncated-image".to_owned());
        assert_eq!(two.by_code, [CodeCount { service, code, count: 4 }]);
    }
}
