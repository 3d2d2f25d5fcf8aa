//! Runs blocking work on its own thread.

use crate::JobError;

/// Starts `work` on a thread for blocking work and waits for it. `doing` completes "the thread that
/// …" in the error, for example "draws".
///
/// # Errors
/// [`JobError::ThreadEnded`] if `work` panics.
pub fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JobError>> {
    let thread = tokio::task::spawn_blocking(work);
    async move { thread.await.map_err(|_| JobError::ThreadEnded { doing }) }
}
