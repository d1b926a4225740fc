//! The configuration file: YAML, flat, each key named as its flag with `_` for `-`.

use std::{fs, path::Path, sync::Arc};

use serde_yaml_ng::Value;

use super::{
    ConfigError,
    key::{Given, Key, Origin, Settings},
};

/// A name that differs from a known one by more than this share of its letters is no misspelling of it.
const SIMILAR: f64 = 0.75;

pub(super) fn settings(path: &Path) -> Result<Settings, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    let value = serde_yaml_ng::from_str(text).map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source,
    })?;
    let mut settings = Settings::default();
    let keys = match value {
        // An empty file, or one with comments only.
        Value::Null => return Ok(settings),
        Value::Mapping(keys) => keys,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Sequence(_) | Value::Tagged(_) => {
            return Err(ConfigError::NotKeys {
                path: path.to_owned(),
            });
        }
    };
    let shared: Arc<Path> = Arc::from(path);
    for (name, value) in keys {
        let Some(name) = scalar(&name) else {
            return Err(ConfigError::NotKeys {
                path: path.to_owned(),
            });
        };
        let Some(key) = Key::from_name(&name) else {
            return Err(ConfigError::UnknownKey {
                hint: hint(&name),
                key: name,
                path: path.to_owned(),
            });
        };
        let values = match value {
            Value::Null => continue,
            Value::Sequence(values) => values,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Mapping(_) | Value::Tagged(_) => {
                vec![value]
            }
        };
        for value in values {
            let fraction = value.as_f64().filter(|_| key.takes_fractions());
            let Some(text) = scalar(&value).or_else(|| fraction.map(|fraction| fraction.to_string())) else {
                return Err(ConfigError::Shape {
                    key: name,
                    path: path.to_owned(),
                });
            };
            settings.add(
                key,
                Given {
                    text,
                    origin: Origin::File {
                        path: Arc::clone(&shared),
                        key,
                    },
                },
            );
        }
    }
    Ok(settings)
}

/// The text of a value that is no list. Fractions are refused and want quotes: see [`Key::takes_fractions`].
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::Number(_) | Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

fn hint(unknown: &str) -> String {
    // A flag copied into the file keeps its dashes.
    let unknown = unknown.trim_start_matches('-').replace('-', "_").to_lowercase();
    let likeness = |key: &Key| strsim::jaro_winkler(&unknown, key.name());
    let nearest = Key::ALL
        .into_iter()
        .max_by(|left, right| likeness(left).total_cmp(&likeness(right)));
    match nearest.filter(|key| likeness(key) >= SIMILAR) {
        Some(key) => format!("did you mean {:?}?", key.name()),
        None => "docs/configuration.md lists the keys".to_owned(),
    }
}
