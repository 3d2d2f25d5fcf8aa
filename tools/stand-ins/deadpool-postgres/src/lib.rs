//! Stands in for deadpool-postgres: nisshi-storage names the crate and does not use it.
