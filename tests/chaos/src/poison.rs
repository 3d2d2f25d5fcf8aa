//! Poison: records that no service can process. Each becomes a dead letter.

use std::sync::LazyLock;

use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::image_id_of;
use unprompt_schemas::records::{ImageEmbedding, NamedVector};
use unprompt_schemas::topics::Topic;

use crate::picture::{picture, with_side};

#[path = "../../../models/src/picture/webp_of_groups.rs"]
mod webp_of_groups;

/// The number of kinds.
pub const KINDS: usize = 13;
/// More groups than the default limits allow: 1.3 GiB of tables in 3.8 MB.
const GROUPS: u32 = 65_536;

/// The vectors that the predictors of a run expect.
#[derive(Clone, Debug)]
pub struct VectorSpace {
    pub model: String,
    pub dims: usize,
}

/// The topic and the value of the poison of this kind, below [`KINDS`].
pub fn poison(kind: usize, number: usize, space: &VectorSpace) -> (Topic, Vec<u8>) {
    let vector = |values| (Topic::ImageEmbeddings, embedding(number, space, values));
    match kind {
        0 => (Topic::Images, picture(number)[..60].to_vec()),
        1 => (Topic::Images, b"this is not a picture".to_vec()),
        2 => (Topic::Images, Vec::new()),
        3 => (Topic::Images, with_side(picture(number), 0)),
        4 => (Topic::Images, with_side(picture(number), 1 << 30)),
        5 => (Topic::Images, [&[0xff, 0xd8, 0xff, 0xe0][..], &[0; 200]].concat()),
        6 => (Topic::Images, noise(512)),
        7 => (Topic::Images, greedy_webp()),
        8 => vector(vec![f32::NAN; space.dims]),
        9 => vector(vec![f32::INFINITY; space.dims]),
        10 => vector(vec![0.0; space.dims]),
        11 => vector(vec![1.0; space.dims + 1]),
        _ => (Topic::ImageEmbeddings, noise(200)),
    }
}

fn greedy_webp() -> Vec<u8> {
    static GREEDY: LazyLock<Vec<u8>> = LazyLock::new(|| webp_of_groups::of_groups(GROUPS));
    GREEDY.clone()
}

fn noise(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A well formed embedding with these values.
fn embedding(number: usize, space: &VectorSpace, values: Vec<f32>) -> Vec<u8> {
    let topic = Topic::ImageEmbeddings;
    let embedding = ImageEmbedding {
        image_id: image_id_of(&format!("poison-{number}")),
        vectors: vec![NamedVector { model: space.model.clone(), values }],
        source_topic: topic.base_name().to_owned(),
        ..ImageEmbedding::default()
    };
    Codec::single_object().encode(topic.base_name(), &embedding).expect("an embedding can be encoded")
}
