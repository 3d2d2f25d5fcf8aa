//! The list of targets.

mod folders;
mod foreign;
mod headers;
mod heads;
mod pictures;
mod records;
mod snapshots;
mod uris;

use crate::Target;

/// A target for every decoder.
pub const TARGETS: &[Target] = &[
    records::PROMPT,
    records::RECORD,
    records::OLDER,
    foreign::FOREIGN,
    headers::IMAGE_EVENT,
    headers::DEAD_LETTER,
    pictures::PICTURE,
    uris::URI,
    heads::HEAD,
    folders::MODEL_FOLDER,
    snapshots::SNAPSHOT,
];
