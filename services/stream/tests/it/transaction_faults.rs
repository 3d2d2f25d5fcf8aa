//! Errors that a broker may return in the middle of a transaction, and how the runner recovers.
//! librdkafka's mock cluster returns them.
//!
//! The mock keeps no transaction markers, so aborted records stay visible there. These tests show
//! that nothing is lost, and that the run continues or ends as documented. The tests on Apache
//! Kafka show that nothing is repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{RunnerConfig, StreamError};

use crate::outages::mock;
use crate::support::*;

/// The runner's recovery.
#[derive(Clone, Copy, Debug)]
enum WayOut {
    /// librdkafka asks again, and the transaction is committed.
    AskedAgain,
    /// The transaction is aborted and tried again.
    Aborted,
    /// The transaction is lost, and the service starts again with a new producer.
    StartedAgain,
}

/// Returns the number of a service's transactions that ended with this outcome.
fn transactions(service: &str, outcome: &str) -> f64 {
    let label = format!("outcome=\"{outcome}\"");
    metric("unprompt_transactions_total", service, &[label.as_str()])
}

fn assert_way_out(service: &str, way_out: WayOut, committed_before: f64) {
    let (aborted, lost) = (transactions(service, "aborted"), transactions(service, "lost"));
    let restarts = metric("unprompt_session_restarts_total", service, &[]);
    let ended = format!("{way_out:?}: {aborted} aborted, {lost} lost, {restarts} restarts");
    match way_out {
        WayOut::AskedAgain => {
            assert_eq!((aborted, lost, restarts), (0.0, 0.0, 0.0), "{ended}");
            // One transaction may have been past the request when the errors were set. The next one
            // needed a good answer, which the broker gives only after it has returned all errors.
            let committed = transactions(service, "committed");
            assert!(committed >= committed_before + 2.0, "the errors may not have struck: {committed}");
        }
        WayOut::Aborted => assert!(aborted >= 1.0 && lost == 0.0 && restarts == 0.0, "{ended}"),
        WayOut::StartedAgain => assert!(lost >= 1.0 && restarts >= 1.0, "{ended}"),
    }
}

/// Runs a stage on 300 records. After 100 of them, the broker returns `errors` to requests of one
/// kind. All records must come out, by the expected way out.
async fn ridden_out(
    service: &'static str,
    request: RDKafkaApiKey,
    errors: &[RDKafkaRespErr],
    way_out: WayOut,
) {
    let (cluster, mut kafka) = mock();
    // The mock waits this long, less a second, for a member that has left.
    kafka.properties.insert("session.timeout.ms".into(), "3000".into());
    kafka.properties.insert("heartbeat.interval.ms".into(), "500".into());
    if matches!(request, RDKafkaApiKey::Produce) {
        // The mock accepts what follows a record that it has refused, which no broker does.
        kafka.properties.insert("max.in.flight.requests.per.connection".into(), "1".into());
    }
    publish(&kafka, 0..300).await;
    let config = RunnerConfig { batch_records: 10, retry_initial_ms: 20, ..RunnerConfig::default() };
    assert_eq!(transactions(service, "committed"), 0.0, "another test uses this name");
    // The stage waits until the errors are set with most of the records still before it. On a busy
    // machine it would otherwise be done before them.
    let (given, worked_on) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let gate = given.clone();
    let run = RunningStage::named(service, &kafka, config, move |batch| {
        while worked_on.load(Ordering::Relaxed) >= 100 && !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        worked_on.fetch_add(batch.len(), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        Ok(copies(batch))
    });
    take(&kafka, Topic::ImageEmbeddings, 100).await;
    cluster.request_errors(request, errors);
    let committed = transactions(service, "committed");
    given.store(true, Ordering::Relaxed);
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..300).await;
    assert!(run.health.is_live(), "the run has failed");
    run.stop().await;
    assert_way_out(service, way_out, committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_moves_while_offsets_are_added_is_found_again() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS as LOADING, RD_KAFKA_RESP_ERR_NOT_COORDINATOR as MOVED,
    };
    let errors = [MOVED, LOADING, MOVED];
    ridden_out("adding-offsets", RDKafkaApiKey::AddOffsetsToTxn, &errors, WayOut::AskedAgain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_moves_while_a_transaction_ends_is_found_again() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE as AWAY, RD_KAFKA_RESP_ERR_NOT_COORDINATOR as MOVED,
    };
    let errors = [MOVED, AWAY, AWAY];
    ridden_out("ending", RDKafkaApiKey::EndTxn, &errors, WayOut::AskedAgain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_committed_after_a_group_coordinator_moves() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS as LOADING, RD_KAFKA_RESP_ERR_NOT_COORDINATOR as MOVED,
    };
    let errors = [MOVED, LOADING];
    ridden_out("group-moved", RDKafkaApiKey::TxnOffsetCommit, &errors, WayOut::AskedAgain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_an_old_generation_abort_the_transaction_and_it_is_retried() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION as OLD;
    ridden_out("old-generation", RDKafkaApiKey::TxnOffsetCommit, &[OLD], WayOut::Aborted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_written_after_a_partition_leader_moves() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as MOVED, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as LATE,
    };
    let errors = [MOVED, LATE, MOVED];
    ridden_out("leader-moved", RDKafkaApiKey::Produce, &errors, WayOut::AskedAgain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_is_replaced_after_an_out_of_order_sequence_error() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER as DISORDER;
    ridden_out("out-of-order", RDKafkaApiKey::Produce, &[DISORDER], WayOut::StartedAgain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_fenced_by_the_broker_is_recreated() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED as FENCED;
    ridden_out("fenced", RDKafkaApiKey::EndTxn, &[FENCED], WayOut::StartedAgain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_transaction_permission_ends_the_run_with_advice() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED as REFUSED;
    let (cluster, kafka) = mock();
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[REFUSED]);
    let error = RunningStage::copying(&kafka).failure().await;
    assert!(matches!(error, StreamError::NoTransactions { .. }), "{error}");
    assert!(error.to_string().contains("grant WRITE"), "{error}");
}
