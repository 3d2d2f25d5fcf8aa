//! Tests of the embedded endpoint. Most of them hold for any Qdrant: UNPROMPT_TEST_QDRANT names a
//! server (`http://host:6334`) to run those against instead. The others run on the embedded
//! endpoint only.

mod collections;
mod durability;
mod errors;
mod faults;
mod groups;
mod optimising;
mod points;
mod python;
mod queries;
