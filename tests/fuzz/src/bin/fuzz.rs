//! libFuzzer on the target in $UNPROMPT_FUZZ_TARGET; writes the target's seeds to
//! $UNPROMPT_FUZZ_SEEDS first. Without a target, it prints the names of all.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use unprompt_fuzz::{TARGETS, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(
    init: prepare(),
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            target.check(input);
        }
    }
);

fn prepare() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    let Ok(name) = std::env::var("UNPROMPT_FUZZ_TARGET") else {
        println!("{}", names.join("\n"));
        std::process::exit(0);
    };
    let target = Target::named(&name);
    let target =
        target.unwrap_or_else(|| panic!("there is no target {name:?}; choose one of {}", names.join(", ")));
    let folder =
        PathBuf::from(std::env::var_os("UNPROMPT_FUZZ_SEEDS").expect("$UNPROMPT_FUZZ_SEEDS names a folder"));
    for (number, seed) in (target.seeds)().into_iter().enumerate() {
        let path = folder.join(format!("seed-{number}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    TARGET.get_or_init(|| target);
}
