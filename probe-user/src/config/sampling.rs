//! Which requests are reported.

use probe_common::sampling::{RATIO_ALL, SAMPLING_PATH_MAX};

use super::{
    ConfigError,
    key::{Given, Key, Settings},
    resolve::Reader,
    value,
};

/// Which requests are reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampling {
    pub method: SamplingMethod,
    /// Paths with a ratio of their own.
    pub paths: Vec<PathRatio>,
    /// What has an error is reported all the same.
    pub keep_errors: bool,
    /// So is what takes longer; 0 if nothing is.
    pub keep_slower_than_ms: u64,
}

impl Sampling {
    /// Whether anything may be left out.
    pub fn is_on(&self) -> bool {
        self.method != SamplingMethod::All || !self.paths.is_empty()
    }
}

/// How it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplingMethod {
    /// Everything is sampled.
    All,
    /// By chance.
    Constant { ratio: Ratio },
    /// As many as a bucket has tokens for, in each process.
    RateLimiting { rate_per_second: u32, burst_size: u32 },
    /// Everything up to so many requests a second in a process; above, as many as the processor time allows, in
    /// thousandths of one processor.
    Adaptive {
        threshold_per_second: u32,
        cpu_permille: u32,
    },
    /// The first few of each three seconds in a process.
    NPer3Secs { count: u32 },
}

/// A part of all, in units of [`RATIO_ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(pub u32);

/// The ratio of a path, or of all that begin with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRatio {
    pub path: String,
    pub is_prefix: bool,
    pub ratio: Ratio,
}

/// The word for each method, and the keys that belong to it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    All,
    Constant,
    RateLimiting,
    Adaptive,
    NPer3Secs,
}

impl value::Choice for Word {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("all", Self::All),
        ("constant", Self::Constant),
        ("rate_limiting", Self::RateLimiting),
        ("adaptive", Self::Adaptive),
        ("n_per_3_secs", Self::NPer3Secs),
    ];
}

const KEYS: [(Key, Word); 6] = [
    (Key::SampleRate, Word::Constant),
    (Key::RatePerSecond, Word::RateLimiting),
    (Key::BurstSize, Word::RateLimiting),
    (Key::AdaptiveThreshold, Word::Adaptive),
    (Key::AdaptiveCpuPercent, Word::Adaptive),
    (Key::SampleNPer3Secs, Word::NPer3Secs),
];

const MOST_PER_SECOND: u32 = 1_000_000;
/// What a program serves in a second before anybody minds what tracing it costs.
const ADAPTIVE_THRESHOLD_DEFAULT: u32 = 100;
/// Of one processor, in thousandths: a tenth.
const ADAPTIVE_CPU_DEFAULT: u32 = 100;

pub(super) fn sampling(reader: &Reader<'_>, settings: &Settings) -> Result<Sampling, ConfigError> {
    Ok(Sampling {
        method: method(reader, settings)?,
        paths: reader.list(Key::SamplePaths, path_ratio)?,
        keep_errors: reader.or(Key::KeepErrors, value::choice, false)?,
        keep_slower_than_ms: reader.or(Key::KeepSlowerThan, value::milliseconds, 0)?,
    })
}

fn method(reader: &Reader<'_>, settings: &Settings) -> Result<SamplingMethod, ConfigError> {
    let given = || {
        KEYS.iter()
            .filter_map(|(key, word)| Some((settings.one(*key)?, *word)))
    };
    // A key that belongs to one method names it.
    let said = settings.one(Key::Sampling);
    let by = said.or_else(|| given().next().map(|(by, _)| by));
    let word = reader.one(Key::Sampling, value::choice)?;
    let word = word
        .or_else(|| given().next().map(|(_, word)| word))
        .unwrap_or(Word::All);
    let by_whom = || match said {
        Some(said) => format!("{} ({})", said.origin, said.text.trim()),
        None => by.map_or_else(String::new, |by| by.origin.to_string()),
    };
    if let Some((other, _)) = given().find(|(_, of)| *of != word) {
        return Err(ConfigError::OtherSampling {
            given: other.origin.to_string(),
            by: by_whom(),
        });
    }
    let missing = |key: Key| ConfigError::Incomplete {
        given: by_whom(),
        missing: key.as_in(by.map(|by| &by.origin)),
    };
    let per_second = |given: &Given| value::number(given, "requests a second", 1, MOST_PER_SECOND);
    Ok(match word {
        Word::All => SamplingMethod::All,
        Word::Constant => SamplingMethod::Constant {
            ratio: reader.needed(Key::SampleRate, ratio, missing)?,
        },
        Word::RateLimiting => {
            let rate_per_second = reader.needed(Key::RatePerSecond, per_second, missing)?;
            SamplingMethod::RateLimiting {
                rate_per_second,
                burst_size: reader.or(
                    Key::BurstSize,
                    |given| value::number(given, "requests at once", 1, MOST_PER_SECOND),
                    rate_per_second,
                )?,
            }
        }
        Word::Adaptive => SamplingMethod::Adaptive {
            threshold_per_second: reader.or(
                Key::AdaptiveThreshold,
                per_second,
                ADAPTIVE_THRESHOLD_DEFAULT,
            )?,
            cpu_permille: reader.or(
                Key::AdaptiveCpuPercent,
                value::permille_of_percent,
                ADAPTIVE_CPU_DEFAULT,
            )?,
        },
        Word::NPer3Secs => SamplingMethod::NPer3Secs {
            count: reader.needed(
                Key::SampleNPer3Secs,
                |given| value::number(given, "requests in three seconds", 0, MOST_PER_SECOND),
                missing,
            )?,
        },
    })
}

fn ratio(given: &Given) -> Result<Ratio, ConfigError> {
    parse_ratio(&given.text).ok_or_else(|| value::refuse(given, "a ratio: a number from 0 to 1, such as 0.1"))
}

fn parse_ratio(text: &str) -> Option<Ratio> {
    let ratio: f64 = text.trim().parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 1, as is asked first"
    )]
    (0.0..=1.0)
        .contains(&ratio)
        .then(|| Ratio((ratio * f64::from(RATIO_ALL)).round() as u32))
}

/// `/path=0.1`, or `/path/*=0.1` for all that begin so.
fn path_ratio(given: &Given) -> Result<PathRatio, ConfigError> {
    let refuse = || {
        let most = SAMPLING_PATH_MAX - 1;
        value::refuse(
            given,
            format!("a path of at most {most} bytes and a ratio, such as /health=0 or /static/*=0.01"),
        )
    };
    let (path, ratio) = given.text.trim().rsplit_once('=').ok_or_else(refuse)?;
    let ratio = parse_ratio(ratio).ok_or_else(refuse)?;
    let (path, is_prefix) = match path.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (path, false),
    };
    if !path.starts_with('/') || path.len() >= SAMPLING_PATH_MAX || path.contains(['*', '\0']) {
        return Err(refuse());
    }
    Ok(PathRatio {
        path: path.to_owned(),
        is_prefix,
        ratio,
    })
}
