//! The table of services: what each says of itself. It must not know how they are built.

use unprompt_stream::Service;
use unprompt_text_encoder as text_encoder;
use {
    unprompt_generator as generator, unprompt_image_encoder as image_encoder, unprompt_indexer as indexer,
    unprompt_predictor as predictor,
};

use crate::cli::ServiceName;

/// All services, in their order of start.
pub const ALL: [ServiceName; 5] = [
    ServiceName::TextEncoder,
    ServiceName::Indexer,
    ServiceName::Generator,
    ServiceName::ImageEncoder,
    ServiceName::Predictor,
];

impl ServiceName {
    /// Returns the service's description of itself.
    pub fn describe(self) -> &'static Service {
        match self {
            Self::Generator => &generator::SERVICE,
            Self::TextEncoder => &text_encoder::SERVICE,
            Self::ImageEncoder => &image_encoder::SERVICE,
            Self::Indexer => &indexer::SERVICE,
            Self::Predictor => &predictor::SERVICE,
        }
    }
}
