//! The head's card: what to know before relying on it.

use std::fmt::Write;

use unprompt_schemas::records::Head;

/// The card's Markdown, which is stored beside the head's file.
pub(crate) fn text(head: &Head) -> String {
    let mut card = format!(
        "# Head `{}`\n\nRidge regression from image vectors of `{}` to prompt vectors of `{}`.\n\n\
         * sha256: `{}`\n* weight of the head in the blend: {:.3} (the nearest prompts have the rest)\n\n\
         | measure | value |\n|---|---|\n",
        head.name, head.encoder, head.minilm, head.sha256, head.blend_weight
    );
    for (name, value) in &head.metrics {
        // Writing to a String cannot fail.
        let _ = writeln!(card, "| {name} | {value:.4} |");
    }
    card.push_str(
        "\nStrength, weight and calibration were chosen on the validation prompts, whose own points in the index \
         did not vote. Scores on them are therefore a little kind; `unprompt evaluate` gives those of prompts held out.\n",
    );
    card
}
