//! A run's reports besides its log and its metrics.

use crate::health::ServiceHealth;
use crate::{Health, Traces};

/// The destinations of a run's health and traces.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    pub health: Health,
    /// They end with the run.
    pub traces: Traces,
}

impl From<Health> for Signals {
    /// Without traces.
    fn from(health: Health) -> Self {
        Self { health, traces: Traces::default() }
    }
}

/// The signals of one service.
#[derive(Debug)]
pub(crate) struct ServiceSignals {
    pub health: ServiceHealth,
    pub traces: Traces,
}

impl Signals {
    /// Returns the signals of `service`, which is not ready yet.
    pub(crate) fn of(&self, service: &str) -> ServiceSignals {
        ServiceSignals { health: self.health.service(service), traces: self.traces.clone() }
    }
}
