//! Assigns prompts to the parts of the demo. They come from the splits of the grammar, so that no
//! held-out prompt can be indexed or trained on.

use std::collections::HashSet;

use unprompt_schemas::Uuid;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::Prompt;
use unprompt_tiny_world::{Grammar, Split};

use crate::cli::Demo;

/// The source of every prompt that the demo publishes.
const SOURCE: &str = "tiny-world";

/// The prompts of one run, all distinct.
#[derive(Debug)]
pub struct Plan {
    /// Indexed and drawn, for training and validation.
    pub pictured: Vec<Prompt>,
    /// Indexed, not drawn.
    pub indexed_only: Vec<Prompt>,
    /// Drawn on separate topics, not indexed.
    pub held_out: Vec<Prompt>,
}

impl Plan {
    /// Chooses the prompts. The same seed gives the same prompts.
    pub fn draw(args: &Demo) -> Self {
        let mut train = distinct(args.seed, Split::Train, args.prompts.max(args.pictures));
        let indexed_only = train.split_off(args.pictures);
        let held_out = distinct(args.seed, Split::HeldOut, args.held_out);
        Self { pictured: with_seeds(train), indexed_only, held_out: with_seeds(held_out) }
    }

    /// Returns the number of prompts to index.
    pub fn to_index(&self) -> u64 {
        (self.pictured.len() + self.indexed_only.len()) as u64
    }

    /// Returns the number of pictures to draw.
    pub fn to_draw(&self) -> u64 {
        (self.pictured.len() + self.held_out.len()) as u64
    }

    pub fn summary(&self) -> String {
        format!(
            "indexing {} prompts; drawing {} pictures, {} of them held out",
            self.to_index(),
            self.to_draw(),
            self.held_out.len()
        )
    }
}

fn distinct(seed: u64, split: Split, count: usize) -> Vec<Prompt> {
    let mut seen: HashSet<Uuid> = HashSet::with_capacity(count);
    let texts = Grammar::new(seed).scenes(split).map(|scene| scene.prompt());
    let fresh = texts.filter(|text| seen.insert(prompt_id(text)));
    fresh
        .take(count)
        .map(|text| Prompt { text, source: SOURCE.into(), seeds: Vec::new(), attributes: Default::default() })
        .collect()
}

/// Gives each prompt one distinct seed, and so one picture.
fn with_seeds(prompts: Vec<Prompt>) -> Vec<Prompt> {
    prompts.into_iter().enumerate().map(|(at, prompt)| Prompt { seeds: vec![at as i64], ..prompt }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn held_out_prompts_are_never_indexed_and_all_are_distinct() {
        let cli = crate::cli::Cli::parse_from(["unprompt", "demo", "--prompts", "3000", "--pictures", "300"]);
        let crate::cli::Command::Demo(args) = cli.command else { panic!("not the demo") };
        let plan = Plan::draw(&args);
        let indexed: HashSet<&str> =
            plan.pictured.iter().chain(&plan.indexed_only).map(|p| p.text.as_str()).collect();
        assert_eq!(indexed.len(), 3000);
        assert_eq!(plan.held_out.len(), 250);
        assert!(plan.held_out.iter().all(|prompt| !indexed.contains(prompt.text.as_str())));
        assert!(plan.indexed_only.iter().all(|prompt| prompt.seeds.is_empty()));
        assert!(plan.pictured.iter().chain(&plan.held_out).all(|prompt| prompt.seeds.len() == 1));
    }
}
