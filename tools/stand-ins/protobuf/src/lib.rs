//! Stands in for protobuf: nisshi-storage names the crate and does not use it.
