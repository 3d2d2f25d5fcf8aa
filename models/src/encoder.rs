//! The image encoders that the competition's winners used, behind one interface: CLIP (Radford et
//! al., 2021) from a transformers folder; OpenCLIP's ViT, ConvNeXt (Liu et al., 2022) and EVA-CLIP
//! (Sun et al., 2023) from an open_clip folder; BLIP-2's vision transformer with its Q-Former (Li
//! et al., 2023) from a transformers folder. An encoder has a vision tower and, if the folder holds
//! one, a text tower; the vectors of both can be compared.
//!
//! The folder's own configuration determines the network and its size.

mod architecture;
mod blip2;
mod clip;
mod convnext;
mod eva;
mod folder;
mod open_clip;
mod text_tower;
mod timm;
mod vision_tower;

pub use crate::device::Precision;
pub use crate::engine::Engine;
pub use crate::picture::Pixels;
pub use folder::{dims, vector_name};
pub use text_tower::TextTower;
pub use vision_tower::{VisionSettings, VisionTower};
