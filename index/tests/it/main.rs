//! Tests of the prompt index against a Qdrant endpoint: the embedded one, or the server in
//! UNPROMPT_TEST_QDRANT (`http://host:6334`). Guarantees of the embedded endpoint alone are tested
//! only there.

mod administration;
mod embedded;
mod prompt_index;
mod prompts;
mod searching;
