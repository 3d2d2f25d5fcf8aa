//! Claims about the embedded endpoint, most of them about any Qdrant: UNPROMPT_TEST_QDRANT names a
//! server (`http://host:6334`) to make those about instead. The others run on the embedded endpoint
//! alone.

mod collections;
mod durability;
mod errors;
mod faults;
mod groups;
mod optimising;
mod points;
mod python;
mod queries;
