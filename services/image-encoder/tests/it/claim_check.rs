//! Pictures given as URIs: which are fetched, which are refused, and which make their batch wait.

mod bounds;
mod files;
mod http;
mod outages;
mod s3;
