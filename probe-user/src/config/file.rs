//! The configuration file: YAML, each key named as its flag with `_` for `-`, and the rules, which are no flag.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use marked_yaml::{LoadError, LoaderOptions, Marker, Node, Span, types::MarkedScalarNode};

use super::{
    ConfigError, Rule,
    error::Place,
    key::{Given, Key, Origin, Settings},
    rules,
};

/// A name that differs from a known one by more than this share of its letters is no misspelling of it.
const SIMILAR: f64 = 0.75;

/// What differs between two versions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Nothing while it is not there. Links are followed: Kubernetes swaps one to a folder when a ConfigMap changes.
    pub fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            size_bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        })
    }
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) settings: Settings,
    pub(super) rules: Vec<Rule>,
}

pub(super) fn read(path: &Path) -> Result<Contents, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Contents, ConfigError> {
    let file = File {
        path: Arc::from(path),
    };
    // The parser takes a NUL for the end, and what follows would be lost without a word.
    let strange = |line: &str| {
        line.chars()
            .any(|it| it.is_control() && !matches!(it, '\t' | '\r'))
    };
    if let Some(before) = text.split('\n').position(strange) {
        return Err(ConfigError::Syntax {
            place: Place {
                path: Arc::clone(&file.path),
                line: Some(before + 1),
            },
            sentence: "a character that cannot be printed stands there".to_owned(),
        });
    }
    // Without coercion a number keeps its digits, and a quoted `~` is text.
    let options = LoaderOptions::default()
        .error_on_duplicate_keys(true)
        .prevent_coercion(true);
    let node = marked_yaml::parse_yaml_with_options(0, text, options).map_err(|error| file.broken(error))?;
    let mut contents = Contents::default();
    let Some(keys) = node.as_mapping() else {
        return Err(file.no_keys(node.span()));
    };
    for (name, value) in keys.iter() {
        if name.as_str() == rules::KEY {
            contents.rules = rules::parse(&file, value)?;
            continue;
        }
        let Some(key) = Key::from_name(name.as_str()) else {
            let known = Key::ALL.into_iter().map(Key::name).chain([rules::KEY]);
            return Err(file.unknown(name, known));
        };
        let scalars = file.scalars(name.as_str(), value)?;
        if scalars.len() > 1 && !key.takes_several() {
            return Err(ConfigError::OneValue {
                key: name.as_str().to_owned(),
                place: file.place(name.span()),
            });
        }
        for scalar in scalars {
            contents.settings.add(key, file.given(scalar, key.name()));
        }
    }
    Ok(contents)
}

/// The file, for those who have to name it.
pub(super) struct File {
    path: Arc<Path>,
}

impl File {
    /// The values of a key: one, or a list of them; none where nothing stands behind it.
    pub(super) fn scalars<'a>(
        &self,
        key: &str,
        value: &'a Node,
    ) -> Result<Vec<&'a MarkedScalarNode>, ConfigError> {
        let values = match value {
            Node::Scalar(scalar) if is_nothing(scalar) => return Ok(Vec::new()),
            Node::Scalar(scalar) => return Ok(vec![scalar]),
            Node::Sequence(values) => values.iter(),
            Node::Mapping(_) => return Err(self.shape(key, value.span())),
        };
        values
            .map(|value| {
                let scalar = value.as_scalar().filter(|scalar| !is_nothing(scalar));
                scalar.ok_or_else(|| self.shape(key, value.span()))
            })
            .collect()
    }

    pub(super) fn given(&self, scalar: &MarkedScalarNode, key: &'static str) -> Given {
        Given {
            text: scalar.as_str().to_owned(),
            origin: Origin::File {
                place: self.place(scalar.span()),
                key,
            },
        }
    }

    pub(super) fn place(&self, span: &Span) -> Place {
        self.place_of(span.start())
    }

    fn place_of(&self, marker: Option<&Marker>) -> Place {
        Place {
            path: Arc::clone(&self.path),
            line: marker.map(Marker::line),
        }
    }

    /// A key that is none of `known`.
    pub(super) fn unknown(
        &self,
        name: &MarkedScalarNode,
        known: impl Iterator<Item = &'static str>,
    ) -> ConfigError {
        ConfigError::UnknownKey {
            hint: hint(name.as_str(), known),
            key: name.as_str().to_owned(),
            place: self.place(name.span()),
        }
    }

    fn shape(&self, key: &str, span: &Span) -> ConfigError {
        ConfigError::Shape {
            key: key.to_owned(),
            place: self.place(span),
        }
    }

    fn no_keys(&self, span: &Span) -> ConfigError {
        ConfigError::NotKeys {
            place: self.place(span),
        }
    }

    fn broken(&self, error: LoadError) -> ConfigError {
        let (marker, sentence) = match error {
            LoadError::TopLevelMustBeMapping(marker) | LoadError::TopLevelMustBeSequence(marker) => {
                return ConfigError::NotKeys {
                    place: self.place_of(Some(&marker)),
                };
            }
            LoadError::UnexpectedAnchor(marker) => {
                (Some(marker), "anchors and aliases are not read".to_owned())
            }
            LoadError::UnexpectedTag(marker) => (Some(marker), "tags are not read".to_owned()),
            LoadError::MappingKeyMustBeScalar(marker) => (Some(marker), "a key must be a word".to_owned()),
            LoadError::DuplicateKey(twice) => {
                let name = twice.key.as_str();
                let first = twice.prev_key.span().start().map_or(0, Marker::line);
                let sentence = format!("{name:?} stands here again, and first in line {first}");
                (twice.key.span().start().copied(), sentence)
            }
            LoadError::ScanError(marker, error) => (Some(marker), error.info().to_owned()),
        };
        ConfigError::Syntax {
            place: self.place_of(marker.as_ref()),
            sentence,
        }
    }
}

/// Nothing behind the colon, or one of YAML's words for it.
pub(super) fn is_nothing(scalar: &MarkedScalarNode) -> bool {
    scalar.may_coerce() && matches!(scalar.as_str(), "" | "~" | "null")
}

fn hint(unknown: &str, known: impl Iterator<Item = &'static str>) -> String {
    // A flag copied into the file keeps its dashes.
    let unknown = unknown.trim_start_matches('-').replace('-', "_").to_lowercase();
    let likeness = |name: &&str| strsim::jaro_winkler(&unknown, name);
    let nearest = known.max_by(|left, right| likeness(left).total_cmp(&likeness(right)));
    match nearest.filter(|name| likeness(name) >= SIMILAR) {
        Some(name) => format!("did you mean {name:?}?"),
        None => "docs/configuration.md lists the keys".to_owned(),
    }
}
