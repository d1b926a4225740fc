//! A program's code in memory against its file: where they differ, there is a probe.

use std::{fs, fs::File, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result};

/// How many bytes of the process's own code differ from what its file has.
pub(crate) fn changed_bytes(pid: u32) -> Result<usize> {
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let program = program.to_str().context("a path that can be read")?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let file = File::open(program)?;
    let mut changed = 0;
    for map in maps
        .lines()
        .filter(|line| line.ends_with(program) && line.contains(" r-xp "))
    {
        let mut fields = map.split_whitespace();
        let (start, end) = fields
            .next()
            .and_then(|range| range.split_once('-'))
            .context("a range")?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        let offset = u64::from_str_radix(fields.nth(1).context("an offset")?, 16)?;
        let len = usize::try_from(end - start)?;
        let (mut there, mut here) = (vec![0; len], vec![0; len]);
        memory.read_exact_at(&mut there, start)?;
        // The last page is longer than the file may be.
        let read = file.read_at(&mut here, offset)?;
        changed += there.iter().zip(&here).take(read).filter(|(a, b)| a != b).count();
    }
    Ok(changed)
}
