//! What the stream crate promises, tried on the embedded broker and on Apache Kafka.
#![cfg(feature = "embedded-broker")]

mod broker;
mod config;
mod dead_letters;
mod exactly_once;
mod failures;
mod groups;
mod hard_stop;
mod health;
mod outages;
mod pass_through;
mod readers;
mod stopping;
mod support;
mod transaction_faults;
