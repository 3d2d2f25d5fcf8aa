//! An answer to ApiVersions without tagged fields: nisshi sends four that say nothing, and librdkafka 2.0, which Debian 12's
//! kcat uses, fails on them with a read underflow and gives the broker up.

use nisshi_sans_io::{Body, Frame, FrameInput};
use rama::Service;

/// Takes what is tagged out of `inner`'s answers to ApiVersions, and lets all others pass.
#[derive(Clone, Debug)]
pub(super) struct PlainVersions<S>(pub S);

impl<S> Service<FrameInput> for PlainVersions<S>
where
    S: Service<FrameInput, Output = Frame>,
{
    type Output = Frame;
    type Error = S::Error;

    async fn serve(&self, input: FrameInput) -> Result<Frame, S::Error> {
        let mut frame = self.0.serve(input).await?;
        if let Body::ApiVersionsResponse(versions) = &mut frame.body {
            versions.supported_features = None;
            versions.finalized_features = None;
            versions.finalized_features_epoch = None;
            versions.zk_migration_ready = None;
        }
        Ok(frame)
    }
}
