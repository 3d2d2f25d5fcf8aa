//! A layer of the configuration whose values are rewritten after they are read. It knows no key.

use figment::value::{Dict, Map};
use figment::{Error, Metadata, Profile, Provider};

/// Changes the values of a layer; the metadata names the layer in an error.
type Rewrite = fn(&mut Dict, Metadata) -> Result<(), Box<Error>>;

/// A layer with a rewrite.
#[derive(Clone, Debug)]
pub(super) struct Rewritten<P> {
    layer: P,
    rewrite: Rewrite,
}

impl<P> Rewritten<P> {
    pub fn new(layer: P, rewrite: Rewrite) -> Self {
        Self { layer, rewrite }
    }
}

impl<P: Provider> Provider for Rewritten<P> {
    fn metadata(&self) -> Metadata {
        self.layer.metadata()
    }

    fn profile(&self) -> Option<Profile> {
        self.layer.profile()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut data = self.layer.data()?;
        for values in data.values_mut() {
            (self.rewrite)(values, self.metadata()).map_err(|error| *error)?;
        }
        Ok(data)
    }
}
