//! What sampling left out, and what it did not.

use std::{fmt, ops::AddAssign};

use probe_common::sampling::SamplingCounts;

use crate::words::{SPANS, counted, percent};

/// What became of requests that were up for sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Requests, and calls without one, that were decided here.
    pub decided: u64,
    /// Those of them that were sampled.
    pub sampled: u64,
    /// Requests that were sampled because their caller was.
    pub followed: u64,
    /// Requests, and calls without one, that were not sampled, and reported all the same.
    pub kept: u64,
    /// Spans that were not reported. They are no loss: it was so wished.
    pub left_out: u64,
}

impl Sampled {
    /// What has come since it was `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            decided: self.decided.saturating_sub(before.decided),
            sampled: self.sampled.saturating_sub(before.sampled),
            followed: self.followed.saturating_sub(before.followed),
            kept: self.kept.saturating_sub(before.kept),
            left_out: self.left_out.saturating_sub(before.left_out),
        }
    }

    /// Requests, and calls without one, that were reported.
    pub fn reported(self) -> u64 {
        self.sampled + self.followed + self.kept
    }

    /// The rate that was achieved, in percent.
    pub fn rate(self) -> String {
        percent(self.sampled, self.decided)
    }
}

impl From<SamplingCounts> for Sampled {
    fn from(counts: SamplingCounts) -> Self {
        let SamplingCounts {
            memory: _,
            decided,
            sampled,
            followed,
            kept,
            left_out,
        } = counts;
        Self {
            decided,
            sampled,
            followed,
            kept,
            left_out,
        }
    }
}

impl AddAssign for Sampled {
    fn add_assign(&mut self, more: Self) {
        self.decided += more.decided;
        self.sampled += more.sampled;
        self.followed += more.followed;
        self.kept += more.kept;
        self.left_out += more.left_out;
    }
}

impl fmt::Display for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            decided,
            sampled,
            followed,
            kept,
            left_out,
        } = self;
        write!(
            f,
            "sampled: {sampled} of {decided} requests ({}), {followed} more because their callers were, {kept} kept for \
             an error or for being slow; {} left out",
            self.rate(),
            counted(*left_out, SPANS)
        )
    }
}
