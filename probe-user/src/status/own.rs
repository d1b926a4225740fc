//! What the probe itself takes.

use crate::clock;

#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    pub cpu_ns: u64,
    pub resident_bytes: u64,
}

impl Own {
    pub fn read() -> Self {
        Self {
            cpu_ns: clock::own_cpu_ns(),
            resident_bytes: resident_bytes().unwrap_or(0),
        }
    }
}

/// `statm`'s second field counts pages.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
