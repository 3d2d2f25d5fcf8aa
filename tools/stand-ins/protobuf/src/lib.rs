//! Stands in for protobuf: nisshi-storage names the crate but does not use it.
