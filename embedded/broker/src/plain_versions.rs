//! ApiVersions responses without tagged fields. nisshi sends four empty ones; librdkafka 2.0, which
//! kcat on Debian 12 uses, fails on them with a read underflow and drops the broker.

use nisshi_sans_io::{Body, Frame, FrameInput};
use rama::Service;

/// A service that removes the tagged fields from ApiVersions responses and passes all other
/// responses through.
#[derive(Clone, Debug)]
pub(crate) struct PlainVersions<S>(pub S);

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
