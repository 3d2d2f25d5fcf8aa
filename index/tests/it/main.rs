//! Claims about the prompt index, made against a Qdrant endpoint: the embedded one, or the server that
//! UNPROMPT_TEST_QDRANT names (`http://host:6334`). What only the embedded endpoint promises runs on that one alone.

mod administration;
mod embedded;
mod prompt_index;
mod prompts;
mod searching;
