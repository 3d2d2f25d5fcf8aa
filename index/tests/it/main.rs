//! Claims about the prompt index, made against a Qdrant endpoint: the embedded one, or the server that
//! UNPROMPT_TEST_QDRANT names (`http://host:6334`). What only the embedded endpoint promises runs on that one alone.

mod administration;
mod collections;
mod durability;
mod endpoint;
mod errors;
mod faults;
mod groups;
mod measure;
mod optimising;
mod points;
mod prompts;
mod python;
mod queries;
mod searching;
