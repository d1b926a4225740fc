//! What can be wrong with a configuration. Each message is one sentence: the thing, where it stands, the way out.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A line of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) path: Arc<Path>,
    /// From 1; not always known.
    pub(super) line: Option<usize>,
}

impl Place {
    pub fn new(path: &Path, line: Option<usize>) -> Self {
        Self {
            path: Arc::from(path),
            line,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(formatter)?;
        match self.line {
            Some(line) => write!(formatter, ":{line}"),
            None => Ok(()),
        }
    }
}

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
    #[error(
        "nothing is selected: say what to trace with --pid, --exe, --port, --all-go or a rule that includes"
    )]
    NothingSelected,
    #[error("{given} needs {missing} too")]
    Incomplete { given: String, missing: String },
    #[error("{one} and {other} say the same thing twice: leave one of them out")]
    Twice { one: String, other: String },
    #[error(
        "{given} has no effect, since {by} sends all to SkyWalking: leave one of them out, or export text or json"
    )]
    NoFile { given: String, by: String },
    #[error("{given} has no effect with {by}: leave one of them out")]
    OtherSampling { given: String, by: String },
    #[error("unknown key {key:?} in {place}: {hint}")]
    UnknownKey { key: String, place: Place, hint: String },
    #[error("{key} in {place} must be a single value or a list of them")]
    Shape { key: String, place: Place },
    #[error("{key} in {place} takes one value and not a list")]
    OneValue { key: String, place: Place },
    #[error("{place}: {sentence}")]
    Rule { place: Place, sentence: String },
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{place} is not YAML that is read here: {sentence}")]
    Syntax { place: Place, sentence: String },
    #[error("{place} is not a configuration file: it must hold lines of the form `key: value`")]
    NotKeys { place: Place },
}
