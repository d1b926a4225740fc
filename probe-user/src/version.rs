//! What this is: its version, and of which source it was built.

/// As `Cargo.toml` has it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, with `-dirty` if the source had changed since; `build/identity.rs` says where it comes from.
pub const BUILD: &str = env!("SKYPROBE_BUILD");

/// Both, for people.
pub const BOTH: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SKYPROBE_BUILD"), ")");
