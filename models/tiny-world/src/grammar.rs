//! Draws an endless sequence of scenes from a seed, in three disjoint splits. It must not know how
//! a scene is phrased or rendered.

use strum::EnumString;

use crate::rng::{SplitMix64, mix};
use crate::scene::{Scene, Second};
use crate::slots::{Background, Colour, Phrasing, Position, Relation, Shape, Size, Style, Texture};

/// One in this many scenes shows two objects.
const ONE_IN_WITH_SECOND: u32 = 4;

/// The split that a scene belongs to. It is decided by a hash of the picture's content, so neither
/// the seed nor the phrasing can move a scene to another split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumString)]
#[strum(serialize_all = "kebab-case", parse_err_ty = String, parse_err_fn = Self::unknown)]
pub enum Split {
    /// 90 % of the scenes, on which the networks are trained.
    Train,
    /// 5 % of the scenes, for choices made during training.
    Validation,
    /// 5 % of the scenes, which are never trained on, for reports.
    HeldOut,
}

impl Split {
    /// Returns the split of `scene`.
    #[must_use]
    pub fn of(scene: &Scene) -> Self {
        match mix(scene.code()) % 20 {
            0 => Self::HeldOut,
            1 => Self::Validation,
            _ => Self::Train,
        }
    }

    fn unknown(name: &str) -> String {
        format!("no split is named {name:?}: use train, validation or held-out")
    }
}

/// The world's grammar with a seed.
#[derive(Debug, Clone)]
pub struct Grammar {
    seed: u64,
}

impl Grammar {
    /// Creates a grammar. A seed always gives the same scenes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns an endless iterator over the scenes of a split. Scenes are drawn with replacement,
    /// so they may repeat.
    #[must_use]
    pub fn scenes(&self, split: Split) -> Scenes {
        Scenes { rng: SplitMix64::new(mix(self.seed)), split, single_object: false }
    }
}

/// An endless iterator over the scenes of a split.
#[derive(Debug, Clone)]
pub struct Scenes {
    rng: SplitMix64,
    split: Split,
    single_object: bool,
}

impl Scenes {
    /// Restricts the iterator to scenes with a single object.
    #[must_use]
    pub fn single_object(mut self) -> Self {
        self.single_object = true;
        self
    }

    fn wants(&self, scene: &Scene) -> bool {
        Split::of(scene) == self.split && (scene.is_single_object() || !self.single_object)
    }
}

impl Iterator for Scenes {
    type Item = Scene;

    fn next(&mut self) -> Option<Scene> {
        loop {
            let scene = draw(&mut self.rng);
            if self.wants(&scene) {
                return Some(scene);
            }
        }
    }
}

fn draw(rng: &mut SplitMix64) -> Scene {
    let scene = Scene {
        style: Style::draw(rng),
        size: Size::draw(rng),
        texture: Texture::draw(rng),
        colour: Colour::draw(rng),
        shape: Shape::draw(rng),
        position: Position::draw(rng),
        background: Background::draw(rng),
        second: None,
        phrasing: Phrasing::draw(rng),
    };
    if rng.below(ONE_IN_WITH_SECOND) > 0 {
        return scene;
    }
    let second = Some(draw_second(rng, scene.shape));
    Scene { size: Size::Medium, position: Position::Center, second, ..scene }
}

/// Draws a second object, whose shape always differs from the first one's.
fn draw_second(rng: &mut SplitMix64, first: Shape) -> Second {
    let (relation, colour) = (Relation::draw(rng), Colour::draw(rng));
    loop {
        let shape = Shape::draw(rng);
        if shape != first {
            return Second { relation, colour, shape };
        }
    }
}

/// Returns the number of distinct prompts.
#[must_use]
pub fn count() -> u64 {
    let shapes = Shape::ALL.len();
    let common = [Style::ALL.len(), Texture::ALL.len(), Colour::ALL.len(), shapes];
    let common: usize = common.iter().product::<usize>() * Background::ALL.len() * Phrasing::ALL.len();
    let alone = Size::ALL.len() * Position::ALL.len();
    let second = Relation::ALL.len() * Colour::ALL.len() * (shapes - 1);
    (common * (alone + second)) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn prompts(seed: u64, split: Split, count: usize) -> Vec<String> {
        Grammar::new(seed).scenes(split).take(count).map(|scene| scene.prompt()).collect()
    }

    #[test]
    fn the_world_has_tens_of_millions_of_prompts() {
        assert_eq!(count(), 37_800_000);
    }

    #[test]
    fn different_scenes_have_different_prompts() {
        let scenes: HashSet<Scene> = Grammar::new(3).scenes(Split::Train).take(100_000).collect();
        let prompts: HashSet<String> = scenes.iter().map(Scene::prompt).collect();
        assert_eq!(prompts.len(), scenes.len());
    }

    #[test]
    fn a_held_out_scene_is_never_trained_on_whatever_the_seed() {
        let codes = |seed, split| {
            let scenes = Grammar::new(seed).scenes(split).single_object();
            scenes.take(20_000).map(|scene| scene.code()).collect::<HashSet<u64>>()
        };
        let held_out = codes(1, Split::HeldOut);
        assert!(held_out.is_disjoint(&codes(2, Split::Train)));
        assert!(held_out.is_disjoint(&codes(2, Split::Validation)));
    }

    #[test]
    fn splits_hold_90_5_and_5_percent_of_the_scenes() {
        let mut rng = SplitMix64::new(5);
        let mut sizes: HashMap<Split, u32> = HashMap::new();
        (0..100_000).for_each(|_| *sizes.entry(Split::of(&draw(&mut rng))).or_default() += 1);
        assert!((89_000..91_000).contains(&sizes[&Split::Train]), "{sizes:?}");
        assert!((4_500..5_500).contains(&sizes[&Split::HeldOut]), "{sizes:?}");
    }

    #[test]
    fn three_scenes_in_four_show_one_object() {
        let scenes = Grammar::new(1).scenes(Split::Train).take(10_000);
        let single = scenes.filter(Scene::is_single_object).count();
        assert!((7_300..7_700).contains(&single), "{single}");
    }

    #[test]
    fn single_object_yields_only_scenes_with_one_object() {
        let mut scenes = Grammar::new(1).scenes(Split::Train).single_object().take(1_000);
        assert!(scenes.all(|scene| scene.is_single_object()));
    }

    #[test]
    fn a_seed_always_gives_the_same_prompts() {
        assert_eq!(prompts(1, Split::Train, 3), GOLDEN_TRAIN);
        assert_eq!(prompts(1, Split::HeldOut, 2), GOLDEN_HELD_OUT);
    }

    const GOLDEN_TRAIN: [&str; 3] = [
        "a comic book panel of a white pine tree against a brick wall",
        "a view through a telescope of a white pine tree in the desert at sunset",
        "on a sandy beach, a green coffee mug on the left, a film still",
    ];
    const GOLDEN_HELD_OUT: [&str; 2] = [
        "a photograph of a spotted green coffee mug below an orange crescent moon in the deep ocean",
        "an oil painting in a gold frame of a black sailboat in a starry night sky",
    ];
}
