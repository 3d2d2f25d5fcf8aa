//! A scene: its slots, its prompt and its code. It must not know how scenes are drawn.

use serde::{Deserialize, Serialize};

use crate::slots::{Background, Colour, Phrasing, Position, Relation, Shape, Size, Style, Texture};

/// A second object, and the first one's position relative to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Second {
    pub relation: Relation,
    pub colour: Colour,
    pub shape: Shape,
}

/// The content that a picture shows and a prompt describes.
///
/// With a second object, `size` is [`Size::Medium`] and `position` is [`Position::Center`], because
/// the relation places both objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scene {
    pub style: Style,
    pub size: Size,
    pub texture: Texture,
    pub colour: Colour,
    pub shape: Shape,
    pub position: Position,
    pub background: Background,
    pub second: Option<Second>,
    pub phrasing: Phrasing,
}

impl Scene {
    /// Returns the prompt. Different scenes have different prompts.
    #[must_use]
    pub fn prompt(&self) -> String {
        let (style, place, objects) = (self.style.words(), self.background.words(), self.objects());
        match self.phrasing {
            Phrasing::StyleFirst => format!("{style} of {objects} {place}"),
            Phrasing::ObjectFirst => format!("{objects} {place}, {style}"),
            Phrasing::PlaceFirst => format!("{place}, {objects}, {style}"),
        }
    }

    /// Returns whether the picture shows a single object.
    #[must_use]
    pub fn is_single_object(&self) -> bool {
        self.second.is_none()
    }

    /// Returns a number that identifies the picture's content. It is equal for scenes that differ
    /// only in phrasing.
    #[must_use]
    pub fn code(&self) -> u64 {
        let second = self
            .second
            .map_or([0; 4], |second| [1, second.relation as u64, second.colour as u64, second.shape as u64]);
        let first = [
            self.style as u64,
            self.size as u64,
            self.texture as u64,
            self.colour as u64,
            self.shape as u64,
            self.position as u64,
            self.background as u64,
        ];
        first.iter().chain(&second).fold(0, |code, slot| code << 5 | slot)
    }

    fn objects(&self) -> String {
        let words = [
            self.size.words(),
            self.texture.words(),
            self.colour.words(),
            self.shape.words(),
            self.position.words(),
        ];
        let first = noun_phrase(&words);
        match self.second {
            None => first,
            Some(Second { relation, colour, shape }) => {
                let second = noun_phrase(&[colour.words(), shape.words()]);
                format!("{first} {} {second}", relation.words())
            }
        }
    }
}

/// Joins the words that are not empty, with their indefinite article.
fn noun_phrase(words: &[&str]) -> String {
    let said: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    let vowel = said.first().is_some_and(|word| word.starts_with(['a', 'e', 'i', 'o', 'u']));
    format!("{} {}", if vowel { "an" } else { "a" }, said.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fish() -> Scene {
        Scene {
            style: Style::OilPainting,
            size: Size::Large,
            texture: Texture::Striped,
            colour: Colour::Orange,
            shape: Shape::Fish,
            position: Position::Left,
            background: Background::DeepOcean,
            second: None,
            phrasing: Phrasing::StyleFirst,
        }
    }

    #[test]
    fn a_prompt_mentions_every_slot() {
        assert_eq!(
            fish().prompt(),
            "an oil painting in a gold frame of a large striped orange fish on the left in the deep ocean"
        );
    }

    #[test]
    fn default_values_are_omitted_and_articles_agree() {
        let scene = Scene {
            size: Size::Medium,
            texture: Texture::Plain,
            position: Position::Center,
            second: Some(Second {
                relation: Relation::Above,
                colour: Colour::White,
                shape: Shape::CoffeeMug,
            }),
            phrasing: Phrasing::PlaceFirst,
            ..fish()
        };
        assert_eq!(
            scene.prompt(),
            "in the deep ocean, an orange fish above a white coffee mug, an oil painting in a gold frame"
        );
    }

    #[test]
    fn the_code_ignores_phrasing_and_nothing_else() {
        let other_phrasing = Scene { phrasing: Phrasing::ObjectFirst, ..fish() };
        let other_colour = Scene { colour: Colour::Blue, ..fish() };
        assert_eq!(fish().code(), other_phrasing.code());
        assert_ne!(fish().code(), other_colour.code());
    }

    #[test]
    fn slots_are_readable_as_json() {
        let json = serde_json::to_value(fish()).expect("a scene is serialisable");
        assert_eq!(json["background"], "deep_ocean");
        assert_eq!(serde_json::from_value::<Scene>(json).expect("and back"), fish());
    }
}
