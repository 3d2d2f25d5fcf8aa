//! Stands in for tokio-postgres-rustls: nisshi-storage names the crate but does not use it.
