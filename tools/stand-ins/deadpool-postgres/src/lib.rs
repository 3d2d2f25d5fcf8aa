//! Stands in for deadpool-postgres: nisshi-storage names the crate but does not use it.
