//! The slots of a scene: their values, weights and words. They must not know how a sentence is
//! composed or what a picture looks like.

use serde::{Deserialize, Serialize};

use crate::rng::SplitMix64;

macro_rules! slot {
    ($(#[$doc:meta])* $name:ident { $($variant:ident: $weight:literal => $words:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $(#[doc = concat!("In prompts: \"", $words, "\".")] $variant),+ }

        impl $name {
            /// All values, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            const WEIGHTS: &'static [u32] = &[$($weight),+];

            /// The words in a prompt; empty if the value is not mentioned.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Self::$variant => $words),+ }
            }

            pub(crate) fn draw(rng: &mut SplitMix64) -> Self {
                Self::ALL[weighted(rng, Self::WEIGHTS)]
            }
        }
    };
}

slot!(
    /// The object that the scene shows.
    Shape {
        Star: 1 => "star",
        House: 1 => "house",
        PineTree: 1 => "pine tree",
        Fish: 1 => "fish",
        Heart: 1 => "heart",
        Mushroom: 1 => "mushroom",
        Sailboat: 1 => "sailboat",
        CrescentMoon: 1 => "crescent moon",
        CoffeeMug: 1 => "coffee mug",
        Car: 1 => "car",
    }
);

slot!(
    /// The object's colour.
    Colour {
        Red: 1 => "red",
        Orange: 1 => "orange",
        Yellow: 1 => "yellow",
        Green: 1 => "green",
        Blue: 1 => "blue",
        Purple: 1 => "purple",
        Pink: 1 => "pink",
        Brown: 1 => "brown",
        Black: 1 => "black",
        White: 1 => "white",
    }
);

slot!(
    /// The pattern on the object.
    Texture {
        Plain: 6 => "",
        Striped: 2 => "striped",
        Spotted: 1 => "spotted",
        Checkered: 1 => "checkered",
    }
);

slot!(
    /// The share of the picture that the object fills.
    Size {
        Small: 2 => "small",
        Medium: 4 => "",
        Large: 4 => "large",
    }
);

slot!(
    /// The position of a single object.
    Position {
        Center: 6 => "",
        Left: 1 => "on the left",
        Right: 1 => "on the right",
        Top: 1 => "at the top",
        Bottom: 1 => "at the bottom",
    }
);

slot!(
    /// The background behind the objects.
    Background {
        SandyBeach: 1 => "on a sandy beach",
        StarryNight: 1 => "in a starry night sky",
        SnowyField: 1 => "in a snowy field",
        DeepOcean: 1 => "in the deep ocean",
        GrassyMeadow: 1 => "in a grassy meadow",
        BrickWall: 1 => "against a brick wall",
        DesertSunset: 1 => "in the desert at sunset",
        CitySkyline: 1 => "above a city skyline",
        Chessboard: 1 => "on a chessboard",
        Library: 1 => "in a library full of books",
        WoodenTable: 1 => "on a wooden table",
        Volcano: 1 => "beside an erupting volcano",
    }
);

slot!(
    /// The medium that the picture imitates.
    Style {
        Photograph: 1 => "a photograph",
        OilPainting: 1 => "an oil painting in a gold frame",
        PostageStamp: 1 => "a postage stamp",
        FilmStill: 1 => "a film still",
        StainedGlass: 1 => "a stained glass window",
        ComicBook: 1 => "a comic book panel",
        Telescope: 1 => "a view through a telescope",
    }
);

slot!(
    /// The position of the first of two objects relative to the second.
    Relation {
        LeftOf: 1 => "to the left of",
        RightOf: 1 => "to the right of",
        Above: 1 => "above",
        Below: 1 => "below",
    }
);

slot!(
    /// The order of the parts of a sentence; the only slot that no picture shows.
    Phrasing {
        StyleFirst: 6 => "style first",
        ObjectFirst: 1 => "object first",
        PlaceFirst: 1 => "place first",
    }
);

fn weighted(rng: &mut SplitMix64, weights: &[u32]) -> usize {
    let mut left = rng.below(weights.iter().sum());
    for (index, weight) in weights.iter().enumerate() {
        if left < *weight {
            return index;
        }
        left -= weight;
    }
    unreachable!("a number below the sum of the weights falls into one of them")
}
