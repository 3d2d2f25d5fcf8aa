//! Vectors distributed like those of a large CLIP, made from MiniLM vectors, since no weights of a
//! large CLIP are available to make real ones.
//!
//! They keep the known geometry of such vectors: each tower's vectors are in a narrow cone (two
//! unrelated texts have a cosine of about 0.6), a picture and its prompt have a cosine of about
//! 0.3, and other pairs about 0.1 (Liang et al., "Mind the Gap", 2022). So queries come from
//! another region than the searched vectors, which is hard for graphs. Within its cone a vector is
//! a MiniLM vector projected to 512 dimensions, plus noise.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unprompt_models::minilm::MiniLm;

/// The length of a vector.
pub const CLIP_DIM: usize = 512;

/// The tower whose vectors to imitate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tower {
    Text,
    Image,
}

impl Tower {
    /// The weights of the cone's axis, the content and the noise in a vector; their squares sum to
    /// about one.
    fn parts(self) -> (f32, f32, f32) {
        match self {
            Self::Text => (0.75, 0.6, 0.28),
            Self::Image => (0.75, 0.45, 0.48),
        }
    }
}

/// The cones of both towers.
#[derive(Debug)]
pub struct Cone {
    middle: Vec<f32>,
    /// [384][512]
    turn: Vec<Vec<f32>>,
    text_axis: Vec<f32>,
    image_axis: Vec<f32>,
}

impl Cone {
    /// Cones around the mean of `vectors` [n][384]; the same vectors always give the same cones.
    pub fn around(vectors: &[Vec<f32>]) -> Self {
        let mut middle = vec![0.0; MiniLm::DIMS];
        for vector in vectors {
            middle.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value / vectors.len() as f32);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let turn = (0..MiniLm::DIMS).map(|_| noise(&mut rng)).collect();
        let (text_axis, mut image_axis) = (noise(&mut rng), noise(&mut rng));
        // The two axes have a cosine of about 0.2.
        image_axis.iter_mut().zip(&text_axis).for_each(|(image, text)| *image += 0.2 * text);
        Self { middle, turn, text_axis, image_axis: unit(image_axis) }
    }

    /// Projects `vectors` [n][384] into the tower's cone; returns unit vectors [n][512]. `first` is
    /// the number of the first vector, which determines its noise.
    pub fn bend(&self, tower: Tower, first: usize, vectors: &[Vec<f32>]) -> Vec<Vec<f32>> {
        vectors.iter().enumerate().map(|(at, vector)| self.bend_one(tower, first + at, vector)).collect()
    }

    fn bend_one(&self, tower: Tower, number: usize, vector: &[f32]) -> Vec<f32> {
        let (on_axis, said, unsaid) = tower.parts();
        let mut turned = vec![0.0; CLIP_DIM];
        for ((value, middle), row) in vector.iter().zip(&self.middle).zip(&self.turn) {
            let value = value - middle;
            turned.iter_mut().zip(row).for_each(|(sum, turn)| *sum += value * turn);
        }
        let axis = if tower == Tower::Text { &self.text_axis } else { &self.image_axis };
        let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
        // A picture and the text of the same number have different noise.
        rng.set_stream(tower as u64);
        let own = noise(&mut rng);
        let parts = axis.iter().zip(unit(turned)).zip(own);
        unit(parts.map(|((axis, turned), own)| on_axis * axis + said * turned + unsaid * own).collect())
    }
}

/// A random direction, approximately uniform: the sum of four uniform values stands for a normal
/// one.
fn noise(rng: &mut ChaCha8Rng) -> Vec<f32> {
    unit((0..CLIP_DIM).map(|_| (0..4).map(|_| rng.random::<f32>() - 0.5).sum()).collect())
}

pub(crate) fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|value| *value /= norm);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn cosines_are_like_those_of_clip_and_a_picture_is_nearest_to_its_text() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let said: Vec<Vec<f32>> =
            (0..200).map(|_| noise(&mut rng)[..MiniLm::DIMS].to_vec()).map(unit).collect();
        let cone = Cone::around(&said);
        let (texts, images) = (cone.bend(Tower::Text, 0, &said), cone.bend(Tower::Image, 0, &said));
        assert!((0.45..0.7).contains(&dot(&texts[0], &texts[1])), "{}", dot(&texts[0], &texts[1]));
        assert!((0.25..0.5).contains(&dot(&images[0], &texts[0])), "{}", dot(&images[0], &texts[0]));
        let nearest =
            (0..200).max_by(|&a, &b| dot(&images[7], &texts[a]).total_cmp(&dot(&images[7], &texts[b])));
        assert_eq!(nearest, Some(7));
    }
}
