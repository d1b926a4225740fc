//! From the text of one setting to its value. Each parser says what it allows.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    Address, Color, ConfigError, Export, Kubernetes, LogLevel, Propagate, Routes, Secret,
    key::{Given, Origin},
};

/// What is shown of a secret.
pub(super) const HIDDEN: &str = "(hidden)";

pub(super) fn refuse(given: &Given, allowed: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        text: given.text.clone(),
        origin: given.origin.to_string(),
        allowed: allowed.into(),
    }
}

/// A value out of a short list of words.
pub(super) trait Choice: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

impl Choice for bool {
    const WORDS: &'static [(&'static str, Self)] = &[("true", true), ("false", false)];
}

impl Choice for Export {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("text", Self::Text),
        ("json", Self::Json),
        ("skywalking", Self::SkyWalking),
    ];
}

impl Choice for Color {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];
}

impl Choice for Routes {
    const WORDS: &'static [(&'static str, Self)] = &[("pattern", Self::Pattern), ("path", Self::Path)];
}

impl Choice for Kubernetes {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

impl Choice for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Choice for Propagate {
    const WORDS: &'static [(&'static str, Self)] = &[
        (
            "sw8",
            Self {
                sw8: true,
                w3c: false,
            },
        ),
        (
            "w3c",
            Self {
                sw8: false,
                w3c: true,
            },
        ),
        ("sw8,w3c", Self { sw8: true, w3c: true }),
        ("w3c,sw8", Self { sw8: true, w3c: true }),
        (
            "off",
            Self {
                sw8: false,
                w3c: false,
            },
        ),
    ];
}

pub(super) fn choice<T: Choice>(given: &Given) -> Result<T, ConfigError> {
    let text = given.text.trim();
    let word = T::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    word.map(|&(_, value)| value).ok_or_else(|| {
        let words: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
        refuse(given, format!("one of: {}", words.join(" | ")))
    })
}

/// A whole number from `least` to `most`; `what` is plural.
pub(super) fn number<T>(given: &Given, what: &str, least: T, most: T) -> Result<T, ConfigError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let parsed = given
        .text
        .trim()
        .parse::<T>()
        .ok()
        .filter(|number| (least..=most).contains(number));
    parsed.ok_or_else(|| refuse(given, format!("{what}: a whole number from {least} to {most}")))
}

/// One number of a key that may be repeated.
pub(super) fn one_number<T>(given: &Given, what: &str, least: T, most: T) -> Result<T, ConfigError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    if given.text.contains(',') {
        let several = match given.origin {
            Origin::File { .. } => "give a list of them, such as [8080, 8081]",
            Origin::Flag(_) | Origin::Environment(_) => "repeat the setting for each of them",
        };
        return Err(refuse(given, format!("{what}: {several}")));
    }
    number(given, what, least, most)
}

/// A time with its unit.
pub(super) fn milliseconds(given: &Given) -> Result<u64, ConfigError> {
    let text = given.text.trim();
    let number = |text: &str| text.trim_end().parse::<u32>().ok();
    let parsed = match text.strip_suffix("ms") {
        Some(text) => number(text).map(u64::from),
        None => text
            .strip_suffix('s')
            .and_then(number)
            .map(|seconds| u64::from(seconds) * 1_000),
    };
    parsed
        .filter(|time| *time > 0)
        .ok_or_else(|| refuse(given, "a time with its unit, such as 500ms or 2s"))
}

/// A percentage with at most one digit behind its point, as thousandths.
pub(super) fn permille_of_percent(given: &Given) -> Result<u32, ConfigError> {
    let percent = given.text.trim().parse::<f64>().ok();
    let percent = percent.filter(|percent| (0.1..=1000.0).contains(percent));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 1 to 10,000, as is asked first"
    )]
    percent
        .map(|percent| (percent * 10.0).round() as u32)
        .ok_or_else(|| refuse(given, "a percentage of one processor: a number from 0.1 to 1000"))
}

/// A file's name, or `-` where `-` means what it usually does.
pub(super) fn path(given: &Given) -> Result<PathBuf, ConfigError> {
    if given.text.is_empty() {
        return Err(refuse(given, "the name of a file"));
    }
    Ok(PathBuf::from(&given.text))
}

/// A file's name, or nothing where `off` is said. A file of that name is reached as `./off`.
pub(super) fn path_or_off(given: &Given) -> Result<Option<PathBuf>, ConfigError> {
    match given.text.trim() {
        "" => Err(refuse(given, "the name of a file, or off")),
        "off" => Ok(None),
        _ => path(given).map(Some),
    }
}

/// A name of a service, instance, namespace or cluster.
pub(super) fn name(given: &Given) -> Result<String, ConfigError> {
    let text = given.text.trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(refuse(
            given,
            "a name: at least one character, and none that cannot be printed",
        ));
    }
    Ok(text.to_owned())
}

/// A token that fits a gRPC header.
pub(super) fn token(given: &Given) -> Result<Secret, ConfigError> {
    let text = given.text.trim();
    if text.is_empty() || !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        // The token itself is a secret and stays out of the message.
        return Err(ConfigError::Value {
            text: HIDDEN.to_owned(),
            origin: given.origin.to_string(),
            allowed: "a token: printable ASCII characters".to_owned(),
        });
    }
    Ok(Secret(text.to_owned()))
}

pub(super) fn glob(given: &Given) -> Result<String, ConfigError> {
    if given.text.is_empty() {
        return Err(refuse(given, "a glob such as /srv/*/bin/* or my-service"));
    }
    match globset::Glob::new(&given.text) {
        Ok(_) => Ok(given.text.clone()),
        Err(error) => Err(refuse(given, format!("a glob: {}", error.kind()))),
    }
}

/// An address of this machine, by number: a name may have several.
pub(super) fn socket_address(given: &Given) -> Result<SocketAddr, ConfigError> {
    let parsed = given.text.trim().parse().ok();
    parsed.ok_or_else(|| refuse(given, "an address of the form 127.0.0.1:9465 or [::1]:9465"))
}

/// Addresses with commas between them.
pub(super) fn addresses(given: &Given) -> Result<Vec<Address>, ConfigError> {
    let parts = given
        .text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let addresses: Option<Vec<_>> = parts.map(address).collect();
    addresses
        .filter(|addresses| !addresses.is_empty())
        .ok_or_else(|| {
            refuse(
                given,
                "a list of addresses of the form host:port, with commas between them",
            )
        })
}

fn address(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => {
            let host = bracketed.strip_suffix(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            host
        }
        None => {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            (!host.is_empty() && host.bytes().all(is_name)).then_some(host)?
        }
    };
    Some(Address {
        host: host.to_owned(),
        port,
    })
}
