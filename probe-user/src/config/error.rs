//! What can be wrong with a configuration. Each message is one sentence: the thing, where it stands, the way out.

use std::{io, path::PathBuf};

/// A call that cannot be carried out as it was written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line does not have the form that `--help` describes.
    #[error("{sentence}; see `{help}`")]
    Usage { sentence: String, help: &'static str },
    #[error("{text:?} in {origin} is not {allowed}")]
    Value {
        text: String,
        origin: String,
        allowed: String,
    },
    #[error("nothing is selected: say what to trace with --pid, --exe, --port or --all-go")]
    NothingSelected,
    #[error("{given} needs {missing} too")]
    Incomplete { given: String, missing: String },
    #[error("{one} and {other} say the same thing twice: leave one of them out")]
    Twice { one: String, other: String },
    #[error("{given} has no effect with `--export {export}`: {advice}")]
    Contradiction {
        given: String,
        export: &'static str,
        advice: &'static str,
    },
    #[error("{given} has no effect with `sampling {method}`: leave one of them out")]
    OtherSampling { given: String, method: &'static str },
    #[error("unknown key {key:?} in {}: {hint}", path.display())]
    UnknownKey {
        key: String,
        path: PathBuf,
        hint: String,
    },
    #[error("{key} in {} must be a single value or a list of them, text in quotes where it looks like a number",
        path.display())]
    Shape { key: String, path: PathBuf },
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a configuration file: {source}", path.display())]
    Syntax {
        path: PathBuf,
        source: serde_yaml_ng::Error,
    },
    #[error("{} is not a configuration file: it must hold lines of the form `key: value`", path.display())]
    NotKeys { path: PathBuf },
}
