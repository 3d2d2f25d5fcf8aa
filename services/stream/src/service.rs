//! The description of a service, known before it is built: its name, its topics, and the
//! dependencies that must answer before it takes a record.
//!
//! It must not know which services there are.

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Record;
use unprompt_schemas::topics::{Prefix, Topic};

/// The description of a service.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// For example `image-encoder`. The consumer group is `<prefix>unprompt-<name>`; the metrics
    /// and the section of `[runner]` carry the name.
    pub name: &'static str,
    /// The topics it reads.
    pub inputs: &'static [Topic],
    /// The topics it writes, apart from the dead letters.
    pub outputs: &'static [Topic],
    /// True if its outputs carry the time of their input's source: then a record's latency counts
    /// from the first record of its chain. False if an output begins a chain of its own.
    pub keeps_time: bool,
    pub needs: Needs,
}

/// The dependencies, apart from Kafka, that must answer before a service takes a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// The prompt index.
    pub index: bool,
    /// heads.v1, read to its end.
    pub heads: bool,
    /// The schema that it writes with, from the schema registry if one is configured.
    pub schema: Option<PrepareSchema>,
}

/// Asks the schema registry for the schema of a record: [`prepare_schema`] of its type.
pub type PrepareSchema = fn(&Codec, &Prefix) -> Result<(), SchemaError>;

/// Asks the schema registry for the schema of `R` on its topic.
///
/// # Errors
/// As [`Codec::prepare`].
pub fn prepare_schema<R: Record>(codec: &Codec, prefix: &Prefix) -> Result<(), SchemaError> {
    codec.prepare::<R>(&prefix.name(R::TOPIC))
}

impl Service {
    /// Describes a service that needs only Kafka and passes the time of its inputs' source on.
    pub const fn new(name: &'static str, inputs: &'static [Topic], outputs: &'static [Topic]) -> Self {
        let needs = Needs { index: false, heads: false, schema: None };
        Self { name, inputs, outputs, keeps_time: true, needs }
    }
}

/// The connections that every stage gets, apart from the models it loads.
#[derive(Clone, Debug)]
pub struct StageWiring {
    /// The codec of records.
    pub codec: Codec,
    /// The runtime on which a synchronous stage runs futures.
    pub runtime: Handle,
    /// Cancels waiting.
    pub stop: CancellationToken,
}
