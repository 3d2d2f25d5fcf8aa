//! The stream crate's promises, tried on the embedded broker and on Apache Kafka.

mod arbitrary;
mod broker;
mod config;
mod dead_letters;
mod exactly_once;
mod failures;
mod groups;
mod hard_stop;
mod health;
mod memory;
mod outages;
mod pass_through;
mod readers;
mod registry;
mod secrets;
mod sections;
mod security;
mod stopping;
mod support;
mod topics;
mod traces;
mod transaction_faults;
