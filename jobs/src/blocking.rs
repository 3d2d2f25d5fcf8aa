//! Work that blocks, on a thread for it.

use crate::JobError;

/// Starts `work` on a thread for blocking work, and waits for it. `doing` says what the thread
/// does, as in "the thread that draws".
///
/// # Errors
/// [`JobError::ThreadEnded`] where `work` panics.
pub fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JobError>> {
    let thread = tokio::task::spawn_blocking(work);
    async move { thread.await.map_err(|_| JobError::ThreadEnded { doing }) }
}
