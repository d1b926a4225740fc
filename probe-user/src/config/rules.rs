//! Rules: which processes are traced, the first that fits decides.

use marked_yaml::{Node, types::MarkedMappingNode};

use super::{
    ConfigError, Place,
    file::{File, is_nothing},
    key::Given,
    value::{self, Choice},
};

/// The key they stand under in the file.
pub(super) const KEY: &str = "rules";

/// What a rule says of the processes that meet all of its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub verdict: Verdict,
    pub conditions: Vec<Condition>,
    /// Where it stands, for who asks what decided.
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Include,
    Exclude,
}

/// Met by what is any of those listed. Texts are globs, known to be well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Namespace(Vec<String>),
    /// The name of what the pod belongs to, or `Kind/name`.
    Workload(Vec<String>),
    PodLabel(Vec<Pair>),
    Annotation(Vec<Pair>),
    /// Its name in the pod.
    Container(Vec<String>),
    /// Globs for the executable's whole path or its base name.
    Exe(Vec<String>),
    /// Listening TCP ports.
    Port(Vec<u16>),
    Language(Vec<Language>),
    /// The systemd unit, with its suffix or without.
    Unit(Vec<String>),
}

/// A label or annotation that is there, with a value that a glob fits if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: Option<String>,
}

/// What programs that can be traced are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Go,
}

impl Choice for Language {
    const WORDS: &'static [(&'static str, Self)] = &[("go", Self::Go)];
}

impl Choice for Verdict {
    const WORDS: &'static [(&'static str, Self)] = &[("include", Self::Include), ("exclude", Self::Exclude)];
}

/// The names of conditions, and what each holds for.
pub(super) const CONDITIONS: [(&str, &str); 9] = [
    ("namespace", "pods in this namespace"),
    (
        "workload",
        "pods of what has this name, or `Kind/name`: `gateway`, `Deployment/gate*`; a Deployment's pods are its own, and so are a CronJob's",
    ),
    ("pod_label", "pods with this label, `key` or `key=value`"),
    ("annotation", "pods with this annotation, `key` or `key=value`"),
    (
        "container",
        "containers with this name in their pod, sidecars and ephemeral ones as well",
    ),
    ("exe", "executables, by their whole path or their base name"),
    ("port", "processes that listen on this TCP port"),
    ("language", "`go`"),
    (
        "unit",
        "services of systemd, `gateway` or `gateway.service`, and containers that are one (Podman's quadlets)",
    ),
];

fn known_conditions() -> impl Iterator<Item = &'static str> {
    CONDITIONS.into_iter().map(|(name, _)| name)
}

pub(super) fn parse(file: &File, value: &Node) -> Result<Vec<Rule>, ConfigError> {
    let nodes = match value {
        Node::Sequence(nodes) => nodes.iter(),
        Node::Scalar(scalar) if is_nothing(scalar) => {
            return Ok(Vec::new());
        }
        Node::Scalar(_) | Node::Mapping(_) => {
            return Err(wrong(
                file,
                value,
                "`rules` is a list: begin each rule with `- include:` or `- exclude:`",
            ));
        }
    };
    let mut rules = Vec::new();
    let mut all_taken = None;
    for node in nodes {
        if let Some(line) = all_taken {
            let sentence =
                format!("this rule is never reached: the one in line {line} decides for all that come to it");
            return Err(wrong(file, node, sentence));
        }
        let rule = rule(file, node)?;
        if rule.conditions.is_empty() {
            all_taken = Some(file.place(node.span()).line.unwrap_or(0));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(file: &File, node: &Node) -> Result<Rule, ConfigError> {
    let form = "a rule is `include:` or `exclude:`, one of them, with conditions below it, such as \
                `- include: {exe: \"gateway*\"}`";
    let only = node.as_mapping().filter(|keys| keys.len() == 1);
    let Some((name, below)) = only.and_then(|keys| keys.iter().next()) else {
        return Err(wrong(file, node, form));
    };
    let known = Verdict::WORDS.iter().find(|(word, _)| *word == name.as_str());
    let Some(&(_, verdict)) = known else {
        if known_conditions().any(|known| known == name.as_str()) {
            return Err(wrong(file, node, form));
        }
        return Err(file.unknown(name, Verdict::WORDS.iter().map(|(word, _)| *word)));
    };
    let conditions = match below {
        Node::Mapping(conditions) => conditions_of(file, conditions)?,
        // `- include:` with nothing below it.
        Node::Scalar(scalar) if is_nothing(scalar) => Vec::new(),
        Node::Scalar(_) | Node::Sequence(_) => return Err(wrong(file, below, form)),
    };
    Ok(Rule {
        verdict,
        conditions,
        place: file.place(node.span()),
    })
}

fn conditions_of(file: &File, conditions: &MarkedMappingNode) -> Result<Vec<Condition>, ConfigError> {
    let mut all = Vec::new();
    for (name, value) in conditions.iter() {
        let Some(known) = known_conditions().find(|known| *known == name.as_str()) else {
            return Err(file.unknown(name, known_conditions()));
        };
        let scalars = file.scalars(known, value)?;
        if scalars.is_empty() {
            let sentence =
                format!("{known} has no value, so that no process meets the rule: give one, or leave it out");
            return Err(ConfigError::Rule {
                // Nothing has no line of its own.
                place: file.place(name.span()),
                sentence,
            });
        }
        let given: Vec<Given> = scalars
            .into_iter()
            .map(|scalar| file.given(scalar, known))
            .collect();
        let globs = || given.iter().map(value::glob).collect::<Result<Vec<_>, _>>();
        let pairs = || given.iter().map(pair).collect::<Result<Vec<_>, _>>();
        all.push(match known {
            "namespace" => Condition::Namespace(globs()?),
            "workload" => Condition::Workload(globs()?),
            "pod_label" => Condition::PodLabel(pairs()?),
            "annotation" => Condition::Annotation(pairs()?),
            "container" => Condition::Container(globs()?),
            "exe" => Condition::Exe(globs()?),
            "port" => {
                let port = |given| value::one_number(given, "a TCP port", 1, u16::MAX);
                Condition::Port(given.iter().map(port).collect::<Result<_, _>>()?)
            }
            "language" => Condition::Language(given.iter().map(value::choice).collect::<Result<_, _>>()?),
            _unit => Condition::Unit(globs()?),
        });
    }
    Ok(all)
}

/// `key`, or `key=value` with a glob for the value.
fn pair(given: &Given) -> Result<Pair, ConfigError> {
    let (key, text) = match given.text.split_once('=') {
        Some((key, value)) => (key.trim(), Some(value.trim())),
        None => (given.text.trim(), None),
    };
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(value::refuse(
            given,
            "of the form key or key=value, such as tier=web",
        ));
    }
    if let Some(Err(error)) = text.map(globset::Glob::new) {
        return Err(value::refuse(
            given,
            format!("a key with a glob for its value: {}", error.kind()),
        ));
    }
    Ok(Pair {
        key: key.to_owned(),
        value: text.map(str::to_owned),
    })
}

fn wrong(file: &File, node: &Node, sentence: impl Into<String>) -> ConfigError {
    ConfigError::Rule {
        place: file.place(node.span()),
        sentence: sentence.into(),
    }
}
