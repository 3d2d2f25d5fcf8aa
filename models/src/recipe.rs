//! The prediction recipe: from an image vector and its nearest prompts to the prompt's MiniLM
//! vector, with the expected cosine.
//!
//! Serving, validation and evaluation all predict through [`Recipe`], so that learning and serving
//! match. It must not know where neighbours come from: the caller searches an index for
//! [`Recipe::search_vector`] and passes the neighbours in.

use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::blend::{blend, knn_vector, learn_weight};
use crate::calibration::{Calibration, Evidence};
use crate::head::RidgeHead;
use crate::metrics::cosine;

/// The name of the blend in predictions.
pub const BLEND_NAME: &str = "linear-after-normalising";

/// The vector space that is searched for a picture's neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retrieval {
    /// Searches for the image's vector among the prompts' CLIP text vectors.
    #[default]
    Clip,
    /// Searches for the head's output among the prompts' MiniLM vectors, or in CLIP's space while
    /// there is no head.
    MiniLm,
}

/// The vector to search the prompt index for, with its space.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchVector {
    /// A vector to compare with the prompts' CLIP text vectors.
    Clip(Vec<f32>),
    /// A vector \[384\] to compare with the prompts' MiniLM vectors.
    MiniLm(Vec<f32>),
}

/// One of the prompts nearest to an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour<'a> {
    /// Cosine similarity to the search vector, -1 to 1.
    pub similarity: f32,
    /// The prompt's MiniLM vector, \[384\].
    pub minilm: &'a [f32],
}

impl<'a> From<(f32, &'a [f32])> for Neighbour<'a> {
    fn from((similarity, minilm): (f32, &'a [f32])) -> Self {
        Self { similarity, minilm }
    }
}

/// A ridge head with the blend's weight and the calibration that were learned with it.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedHead {
    pub ridge: RidgeHead,
    /// The head's weight in the blend, 0 to 1.
    pub blend_weight: f32,
    /// The calibration; None if too few validation pictures had neighbours.
    pub calibration: Option<Calibration>,
}

/// The parts of a prediction, before they are blended.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// The neighbours' weighted mean \[384\], unit norm; None without neighbours.
    pub knn: Option<Vec<f32>>,
    /// The head's vector \[384\], unit norm; None without a head.
    pub head: Option<Vec<f32>>,
    /// Each neighbour's share of `knn`, in order. The shares sum to 1.
    pub weights: Vec<f32>,
    /// The input of the calibration; None unless both parts are there.
    pub evidence: Option<Evidence>,
}

/// A predicted prompt vector with its parts and its expected cosine.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// The blend of the parts, or the only part; \[384\], unit norm.
    pub vector: Vec<f32>,
    pub parts: Parts,
    /// The expected cosine to the true prompt's vector, -1 to 1; None without a calibration or
    /// without both parts.
    pub expected_cosine: Option<f32>,
}

/// The current recipe: the retrieval space and the head in use.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    pub retrieval: Retrieval,
    pub head: Option<&'a TrainedHead>,
}

impl Recipe<'_> {
    /// Returns the vector to search the index for, given an image vector \[d\].
    ///
    /// # Errors
    /// [`ModelError::Dimensions`] where the head takes vectors of another dimension.
    pub fn search_vector(&self, image: &[f32]) -> Result<SearchVector, ModelError> {
        search_vector(self.retrieval, self.head.map(|head| &head.ridge), image)
    }

    /// Predicts from an image vector \[d\] and its neighbours, best first. Returns None if there is
    /// neither a neighbour nor a head.
    ///
    /// # Errors
    /// [`ModelError::Dimensions`] where vectors do not fit the head or each other.
    pub fn predict(&self, image: &[f32], neighbours: &[Neighbour]) -> Result<Option<Predicted>, ModelError> {
        let parts = Parts::of(image, neighbours, self.head.map(|head| &head.ridge))?;
        let weight = self.head.map_or(0.0, |head| head.blend_weight);
        let Some(vector) = parts.blended(weight) else { return Ok(None) };
        let calibration = self.head.and_then(|head| head.calibration.as_ref());
        let expected_cosine = calibration
            .zip(parts.evidence.as_ref())
            .map(|(calibration, evidence)| calibration.expected_cosine(evidence));
        Ok(Some(Predicted { vector, parts, expected_cosine }))
    }
}

/// Like [`Recipe::search_vector`], with a head whose blend is not learned yet.
///
/// # Errors
/// [`ModelError::Dimensions`] where the head takes vectors of another dimension.
pub fn search_vector(
    retrieval: Retrieval,
    head: Option<&RidgeHead>,
    image: &[f32],
) -> Result<SearchVector, ModelError> {
    match (retrieval, head) {
        (Retrieval::MiniLm, Some(head)) => head.predict(image).map(SearchVector::MiniLm),
        (Retrieval::MiniLm, None) | (Retrieval::Clip, _) => Ok(SearchVector::Clip(image.to_vec())),
    }
}

impl Parts {
    /// Computes the parts for an image vector \[d\], its neighbours, best first, and the head in
    /// use.
    ///
    /// # Errors
    /// [`ModelError::Dimensions`] where vectors do not fit the head or each other.
    pub fn of(image: &[f32], neighbours: &[Neighbour], head: Option<&RidgeHead>) -> Result<Self, ModelError> {
        let head = head.map(|head| head.predict(image)).transpose()?;
        let dims = head.as_ref().map(Vec::len).or(neighbours.first().map(|first| first.minilm.len()));
        neighbours.iter().try_for_each(|neighbour| check(dims, neighbour.minilm.len()))?;
        let voters: Vec<(f32, &[f32])> =
            neighbours.iter().map(|neighbour| (neighbour.similarity, neighbour.minilm)).collect();
        let (knn, weights) = knn_vector(&voters);
        let knn = (!neighbours.is_empty()).then_some(knn);
        let similarities: Vec<f32> = neighbours.iter().map(|neighbour| neighbour.similarity).collect();
        let evidence = knn
            .as_ref()
            .zip(head.as_ref())
            .map(|(knn, head)| Evidence::new(knn, head, &similarities, &weights));
        Ok(Self { knn, head, weights, evidence })
    }

    /// Blends the parts with this weight of the head, or returns the only part. None if there is no
    /// part.
    pub fn blended(&self, weight_of_head: f32) -> Option<Vec<f32>> {
        match (&self.knn, &self.head) {
            (Some(knn), Some(head)) => Some(blend(knn, head, weight_of_head)),
            (Some(part), None) | (None, Some(part)) => Some(part.clone()),
            (None, None) => None,
        }
    }
}

fn check(expected: Option<usize>, got: usize) -> Result<(), ModelError> {
    match expected {
        Some(expected) if expected != got => {
            Err(ModelError::Dimensions { what: "a neighbour's vector", expected, got })
        }
        _ => Ok(()),
    }
}

impl TrainedHead {
    /// Learns the blend's weight and the calibration on validation pictures: their parts, computed
    /// with `ridge`, and the true prompts' vectors \[384\].
    ///
    /// Only pictures with both parts are used, because only they are blended. Without any, the head
    /// is used alone, with weight 1.
    ///
    /// # Errors
    /// [`ModelError::Singular`] if the calibration cannot be solved.
    pub fn learn<T: AsRef<[f32]>>(
        ridge: RidgeHead,
        held_out: &[Parts],
        truth: &[T],
    ) -> Result<Self, ModelError> {
        let both: Vec<_> =
            held_out.iter().zip(truth).filter_map(|(parts, truth)| both(parts, truth.as_ref())).collect();
        if both.is_empty() {
            return Ok(Self { ridge, blend_weight: 1.0, calibration: None });
        }
        let blend_weight = learn_weight(
            &both.iter().map(|both| both.knn).collect::<Vec<_>>(),
            &both.iter().map(|both| both.head).collect::<Vec<_>>(),
            &both.iter().map(|both| both.truth).collect::<Vec<_>>(),
        );
        let evidence: Vec<Evidence> = both.iter().map(|both| both.evidence).collect();
        let reached: Vec<f32> =
            both.iter().map(|both| cosine(&blend(both.knn, both.head, blend_weight), both.truth)).collect();
        let calibration = (both.len() >= Calibration::MIN_PREDICTIONS)
            .then(|| Calibration::fit(&evidence, &reached))
            .transpose()?;
        Ok(Self { ridge, blend_weight, calibration })
    }
}

/// A validation picture that has both parts.
struct Both<'a> {
    knn: &'a [f32],
    head: &'a [f32],
    evidence: Evidence,
    truth: &'a [f32],
}

fn both<'a>(parts: &'a Parts, truth: &'a [f32]) -> Option<Both<'a>> {
    Some(Both { knn: parts.knn.as_ref()?, head: parts.head.as_ref()?, evidence: parts.evidence?, truth })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Samples;

    /// A head that returns roughly the axis of its input, [3] to [3].
    fn ridge() -> RidgeHead {
        let axes: Vec<Vec<f32>> =
            (0..3).map(|axis| (0..3).map(|i| f32::from(u8::from(i == axis))).collect()).collect();
        let samples = Samples {
            inputs: axes.iter().map(Vec::as_slice).collect(),
            targets: axes.iter().map(Vec::as_slice).collect(),
        };
        RidgeHead::fit(&samples, 0.01).unwrap()
    }

    fn trained(blend_weight: f32, calibration: Option<Calibration>) -> TrainedHead {
        TrainedHead { ridge: ridge(), blend_weight, calibration }
    }

    /// Fifty pictures, each with a neighbour slightly off the truth and a head slightly off in
    /// another direction.
    fn held_out() -> (Vec<Parts>, Vec<Vec<f32>>) {
        let picture = |i: usize| {
            let lean = 0.2 + 0.01 * i as f32;
            let neighbour = [lean, 1.0, 0.0];
            let parts = Parts::of(
                &[0.0, 1.0, lean],
                &[Neighbour { similarity: 1.0 - lean, minilm: &neighbour }],
                Some(&ridge()),
            );
            (parts.unwrap(), vec![0.0, 1.0, 0.0])
        };
        (0..50).map(picture).unzip()
    }

    #[test]
    fn neighbours_alone_predict_without_an_expected_cosine() {
        let recipe = Recipe { retrieval: Retrieval::Clip, head: None };
        let neighbour = Neighbour { similarity: 0.5, minilm: &[0.0, 2.0, 0.0] };
        let predicted = recipe.predict(&[1.0, 0.0, 0.0], &[neighbour]).unwrap().unwrap();
        assert_eq!(predicted.vector, [0.0, 1.0, 0.0]);
        assert_eq!(predicted.parts.weights, [1.0]);
        assert_eq!((predicted.parts.head, predicted.expected_cosine), (None, None));
    }

    #[test]
    fn a_head_alone_predicts_without_an_expected_cosine() {
        let (parts, truth) = held_out();
        let head = TrainedHead::learn(ridge(), &parts, &truth).unwrap();
        assert!(head.calibration.is_some());
        let recipe = Recipe { retrieval: Retrieval::Clip, head: Some(&head) };
        let predicted = recipe.predict(&[1.0, 0.0, 0.0], &[]).unwrap().unwrap();
        assert_eq!(Some(&predicted.vector), predicted.parts.head.as_ref());
        assert_eq!((predicted.parts.knn, predicted.parts.evidence), (None, None));
        assert_eq!(predicted.expected_cosine, None);
    }

    #[test]
    fn knn_and_head_are_blended_at_the_heads_weight() {
        let (image, neighbour) = ([1.0, 0.0, 0.0], Neighbour { similarity: 0.9, minilm: &[0.0, 1.0, 0.0] });
        for weight in [0.0, 0.3, 1.0] {
            let head = trained(weight, None);
            let recipe = Recipe { retrieval: Retrieval::Clip, head: Some(&head) };
            let predicted = recipe.predict(&image, &[neighbour]).unwrap().unwrap();
            let expected = blend(&[0.0, 1.0, 0.0], &head.ridge.predict(&image).unwrap(), weight);
            assert_eq!(predicted.vector, expected);
            assert!(predicted.parts.evidence.is_some() && predicted.expected_cosine.is_none());
        }
    }

    #[test]
    fn without_neighbours_or_a_head_there_is_no_prediction() {
        let recipe = Recipe { retrieval: Retrieval::Clip, head: None };
        assert_eq!(recipe.predict(&[1.0], &[]).unwrap(), None);
    }

    #[test]
    fn vectors_that_do_not_fit_are_refused() {
        let head = trained(0.5, None);
        let recipe = Recipe { retrieval: Retrieval::MiniLm, head: Some(&head) };
        assert!(matches!(recipe.search_vector(&[1.0]), Err(ModelError::Dimensions { .. })));
        assert!(matches!(recipe.predict(&[1.0], &[]), Err(ModelError::Dimensions { .. })));
        let neighbour = Neighbour { similarity: 0.9, minilm: &[0.0, 1.0] };
        assert!(matches!(recipe.predict(&[1.0; 3], &[neighbour]), Err(ModelError::Dimensions { .. })));
        let of_two = [Neighbour { similarity: 0.9, minilm: &[1.0; 3] }, neighbour];
        let recipe = Recipe { retrieval: Retrieval::Clip, head: None };
        assert!(matches!(recipe.predict(&[1.0; 3], &of_two), Err(ModelError::Dimensions { .. })));
    }

    #[test]
    fn minilm_is_searched_with_the_heads_output_once_there_is_a_head() {
        let image = [0.0, 1.0, 0.0];
        let head = trained(0.5, None);
        let search = |retrieval, head| Recipe { retrieval, head }.search_vector(&image).unwrap();
        let output = head.ridge.predict(&image).unwrap();
        assert_eq!(search(Retrieval::MiniLm, Some(&head)), SearchVector::MiniLm(output));
        assert_eq!(search(Retrieval::MiniLm, None), SearchVector::Clip(image.to_vec()));
        assert_eq!(search(Retrieval::Clip, Some(&head)), SearchVector::Clip(image.to_vec()));
    }

    #[test]
    fn serving_predicts_with_the_learned_weight_and_calibration() {
        let (parts, truth) = held_out();
        let head = TrainedHead::learn(ridge(), &parts, &truth).unwrap();
        let recipe = Recipe { retrieval: Retrieval::Clip, head: Some(&head) };
        let lean = 0.25;
        let neighbour = [lean, 1.0, 0.0];
        let neighbours = [Neighbour { similarity: 1.0 - lean, minilm: &neighbour }];
        let served = recipe.predict(&[0.0, 1.0, lean], &neighbours).unwrap().unwrap();
        assert_eq!(served.parts, parts[5]);
        assert_eq!(Some(served.vector), parts[5].blended(head.blend_weight));
        let (evidence, calibration) = (parts[5].evidence.unwrap(), head.calibration.as_ref().unwrap());
        assert_eq!(served.expected_cosine, Some(calibration.expected_cosine(&evidence)));
    }

    #[test]
    fn pictures_without_a_neighbour_change_neither_weight_nor_calibration() {
        let (mut parts, mut truth) = held_out();
        let from_all = TrainedHead::learn(ridge(), &parts, &truth).unwrap();
        parts.push(Parts::of(&[1.0, 0.0, 0.0], &[], Some(&ridge())).unwrap());
        truth.push(vec![0.0, 0.0, -1.0]);
        assert_eq!(TrainedHead::learn(ridge(), &parts, &truth).unwrap(), from_all);
        let alone = TrainedHead::learn(ridge(), &parts[50..], &truth[50..]).unwrap();
        assert_eq!((alone.blend_weight, alone.calibration), (1.0, None));
    }
}
