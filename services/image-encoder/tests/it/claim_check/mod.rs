//! Pictures that stand elsewhere: what is fetched, what is refused, and what waits.

mod bounds;
mod files;
mod http;
mod outages;
mod s3;
