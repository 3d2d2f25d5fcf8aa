//! Stands in for tokio-postgres-rustls: nisshi-storage names the crate and does not use it.
