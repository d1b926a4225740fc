//! Templates of names: text with placeholders in braces.

use super::{ConfigError, key::Given, value};

/// A name that is put together from what is known of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Placeholder(Placeholder),
}

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// The name that the process would have without a template.
    Service,
    Namespace,
    Pod,
    Workload,
    Container,
    Node,
    Exe,
    Pid,
    Unit,
    Label(String),
    Annotation(String),
}

const WORDS: [(&str, Placeholder); 9] = [
    ("service", Placeholder::Service),
    ("namespace", Placeholder::Namespace),
    ("pod", Placeholder::Pod),
    ("workload", Placeholder::Workload),
    ("container", Placeholder::Container),
    ("node", Placeholder::Node),
    ("exe", Placeholder::Exe),
    ("pid", Placeholder::Pid),
    ("unit", Placeholder::Unit),
];

pub(super) fn template(given: &Given) -> Result<Template, ConfigError> {
    let mut pieces = Vec::new();
    let mut rest = given.text.trim();
    while let Some((text, after)) = rest.split_once('{') {
        let placed = after
            .split_once('}')
            .and_then(|(word, rest)| Some((placeholder(word)?, rest)));
        let Some((placeholder, after)) = placed else {
            return Err(refused(given));
        };
        push_text(&mut pieces, text);
        pieces.push(Piece::Placeholder(placeholder));
        rest = after;
    }
    push_text(&mut pieces, rest);
    let is_name = !pieces.is_empty() && !given.text.chars().any(char::is_control);
    is_name.then_some(Template(pieces)).ok_or_else(|| refused(given))
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

fn placeholder(word: &str) -> Option<Placeholder> {
    let known = WORDS.iter().find(|(name, _)| *name == word);
    if let Some((_, placeholder)) = known {
        return Some(placeholder.clone());
    }
    let (kind, key) = word.split_once(':')?;
    match kind {
        _ if key.is_empty() => None,
        "label" => Some(Placeholder::Label(key.to_owned())),
        "annotation" => Some(Placeholder::Annotation(key.to_owned())),
        _ => None,
    }
}

fn refused(given: &Given) -> ConfigError {
    let words: Vec<_> = WORDS.iter().map(|(word, _)| format!("{{{word}}}")).collect();
    value::refuse(
        given,
        format!(
            "a name with placeholders, of which there are {}, {{label:KEY}} and {{annotation:KEY}}",
            words.join(", ")
        ),
    )
}
