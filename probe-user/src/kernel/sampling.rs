//! Sampling: what the kernel programs are told, and what they have counted.

use aya::maps::lpm_trie::{Key, LpmTrie};
use probe_common::sampling::{SAMPLING_PATH_MAX, SamplingCounts, SamplingSettings};

use super::{Kernel, load::LoadError};

const SETTINGS: &str = "SAMPLING";
const COUNTS: &str = "SAMPLED";
const PATHS: &str = "SAMPLING_PATHS";

impl Kernel {
    /// How the process is sampled from here on; the first time before it becomes a target.
    pub fn sample(&mut self, tgid: u32, settings: &SamplingSettings) -> Result<(), LoadError> {
        let mut counts = self.map::<u32, SamplingCounts>(COUNTS)?;
        if counts.get(&tgid, 0).is_err() {
            counts
                .insert(tgid, SamplingCounts::default(), 0)
                .or(Err(LoadError::Full { what: COUNTS }))?;
        }
        self.map::<u32, SamplingSettings>(SETTINGS)?
            .insert(tgid, settings, 0)
            .or(Err(LoadError::Full { what: SETTINGS }))
    }

    /// Gives the path a ratio of its own, or with `is_prefix` all that begin so.
    pub fn sample_path(&mut self, path: &str, is_prefix: bool, ratio: u32) -> Result<(), LoadError> {
        let map = self
            .object
            .map_mut(PATHS)
            .ok_or(LoadError::Absent { what: PATHS })?;
        let mut paths: LpmTrie<_, [u8; SAMPLING_PATH_MAX], u32> =
            LpmTrie::try_from(map).or(Err(LoadError::Absent { what: PATHS }))?;
        let mut data = [0; SAMPLING_PATH_MAX];
        for (to, from) in data.iter_mut().zip(path.as_bytes()) {
            *to = *from;
        }
        // The zero byte behind it is part of a path that has to be met as a whole.
        let bytes = path.len() + usize::from(!is_prefix);
        let bits = u32::try_from(bytes * 8).unwrap_or(u32::MAX);
        paths
            .insert(&Key::new(bits, data), ratio, 0)
            .or(Err(LoadError::Full { what: PATHS }))
    }

    /// What became of the process's requests so far.
    pub fn sampled(&mut self, tgid: u32) -> Option<SamplingCounts> {
        let counts = self.map::<u32, SamplingCounts>(COUNTS).ok()?;
        counts.get(&tgid, 0).ok()
    }

    /// The process is sampled no longer.
    pub fn sample_no_more(&mut self, tgid: u32) -> Result<(), LoadError> {
        // Gone already is as good.
        let _ = self.map::<u32, SamplingSettings>(SETTINGS)?.remove(&tgid);
        let _ = self.map::<u32, SamplingCounts>(COUNTS)?.remove(&tgid);
        Ok(())
    }
}
