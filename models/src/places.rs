//! The folders that set-up puts models and libraries into.

use std::path::PathBuf;

/// Returns `UNPROMPT_MODELS`, or unprompt/models in the user's cache folder; `None` for a user
/// without a home.
pub fn fetched() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("UNPROMPT_MODELS").or_else(|| Some(cache()?.join("unprompt/models")))
}

/// Returns PREFIX/share/unprompt/models for a binary at PREFIX/bin/unprompt, where `make install`
/// puts models.
pub fn installed() -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?;
    let models = binary.parent()?.parent()?.join("share/unprompt/models");
    models.is_dir().then_some(models)
}
