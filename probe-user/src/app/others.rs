//! Probes that run at the same time know of one another: each holds an abstract socket that is named after its process.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

use tracing::{debug, warn};

/// What the names of all probes' sockets begin with, as `/proc/net/unix` writes abstract ones.
const PREFIX: &str = "@skyprobe/";

/// Warns of probes that run already and lets later ones know of us, as long as what is returned lives. Abstract
/// sockets end with their process, so nothing is left of one that was killed.
pub(super) fn announce() -> Option<UnixListener> {
    let others = fs::read("/proc/net/unix").unwrap_or_default();
    // Somebody's name may be any bytes.
    let others = probes(&String::from_utf8_lossy(&others));
    if !others.is_empty() {
        let pids: Vec<String> = others.iter().map(u32::to_string).collect();
        warn!(
            pid = pids.join(", "),
            "Another skyprobe is tracing on this machine, and traces of a process that both trace fall apart: stop it, \
             or choose other processes"
        );
    }
    let name = format!("{}{}", PREFIX.trim_start_matches('@'), std::process::id());
    let listener = SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address));
    listener
        .inspect_err(|error| debug!(%error, "Later probes are not told of this one"))
        .ok()
}

/// The processes whose sockets stand in the kernel's table.
fn probes(table: &str) -> Vec<u32> {
    let names = table.lines().filter_map(|line| line.split_whitespace().last());
    let mut pids: Vec<u32> = names
        .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_known_by_the_names_of_their_sockets() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            00000000e2a7: 00000002 00000000 00010000 0001 01 16384 @skyprobe/4711\n\
            00000000e2a8: 00000002 00000000 00010000 0001 01 16385 /run/skyprobe/12\n\
            00000000e2a9: 00000003 00000000 00000000 0001 03 16386\n\
            00000000e2aa: 00000002 00000000 00010000 0001 01 16387 @skyprobe/x\n";
        assert_eq!(probes(table), [4711]);
        assert_eq!(probes(""), [0; 0]);
    }

    #[test]
    fn what_is_announced_is_seen_and_ends_with_it() {
        let seen = || probes(&fs::read_to_string("/proc/net/unix").unwrap()).contains(&std::process::id());
        let announced = announce();
        assert!(announced.is_some() && seen());
        drop(announced);
        assert!(!seen());
    }
}
