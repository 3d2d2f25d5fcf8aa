//! The product's promises, tested on the binary with real models, topics and index.

mod apache_kafka;
mod bad_pictures;
mod command_line;
mod demo;
mod kill;
mod other_clients;
mod stack;
