//! The addresses of the hub and the package index, from the environment variables of their own
//! tools.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

/// The sources of a pull.
#[derive(Clone)]
pub struct Sources {
    /// The hub's address: `HF_ENDPOINT`, or huggingface.co.
    pub hub: String,
    /// The hub cache of other tools: `HF_HUB_CACHE`, `hub` in `HF_HOME`, or huggingface/hub in the
    /// user's cache folder.
    pub hub_cache: Option<PathBuf>,
    /// `HF_TOKEN`, or the token of `hf auth login`.
    pub hub_token: Option<SecretString>,
    /// `HF_HUB_OFFLINE`: no requests to the hub.
    pub is_offline: bool,
    /// The address of a package index with the simple API: `PIP_INDEX_URL`, or PyPI.
    pub index: String,
    /// A connection that receives nothing for this long is closed.
    pub patience: Duration,
}

const PATIENCE: Duration = Duration::from_secs(30);
const HUB: &str = "https://huggingface.co";
const INDEX: &str = "https://pypi.org/simple";

impl Sources {
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = || Some(PathBuf::from(set("HOME")?).join(".cache"));
        let cache = set("XDG_CACHE_HOME").map(PathBuf::from).or_else(cache);
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| Some(cache?.join("huggingface")));
        let hub_cache = set("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join("hub")));
        Self {
            hub: set("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()),
            hub_cache,
            hub_token: set("HF_TOKEN").or_else(|| token(home.as_deref()?)).map(SecretString::from),
            is_offline: set("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
            index: set("PIP_INDEX_URL").unwrap_or_else(|| INDEX.to_owned()),
            patience: PATIENCE,
        }
    }
}

fn token(home: &Path) -> Option<String> {
    let token = std::fs::read_to_string(home.join("token")).ok()?.trim().to_owned();
    (!token.is_empty()).then_some(token)
}

/// The addresses of a package index may hold a password.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("hub_cache", &self.hub_cache).finish_non_exhaustive()
    }
}
