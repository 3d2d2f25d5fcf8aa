//! Tests of the contract: values written today stay readable for ever, by us and by others.

mod asyncapi;
mod cloudevents;
mod codec;
mod dead_letter;
mod evolution;
mod foreign;
mod golden;
mod hostile;
mod identity;
mod prompts;
mod records;
mod samples;
mod topics;
