//! No code: see Cargo.toml for the purpose of this package.
