//! What the files of `/proc` hold. A process names itself and its environment as it likes, so it is a stranger's text.

use std::collections::BTreeMap;

/// `PF_KTHREAD` among a task's flags.
const KERNEL_THREAD: u32 = 0x0020_0000;
/// `st` of `/proc/net/tcp`: `TCP_LISTEN`.
const LISTEN: &str = "0A";

/// What `stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    pub is_dead: bool,
    pub is_kernel_thread: bool,
    pub start_ticks: u64,
    pub has_environment: bool,
}

/// The name in the second field may hold anything, blanks and brackets too: what follows its last bracket counts.
pub fn stat(stat: &str) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(") ")?;
    // The numbers are those of proc(5), whose field 3 comes first here.
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3);
    let flags: u32 = field(9)?.parse().ok()?;
    Some(Stat {
        is_dead: matches!(*field(3)?, "Z" | "X" | "x"),
        is_kernel_thread: flags & KERNEL_THREAD != 0,
        start_ticks: field(22)?.parse().ok()?,
        has_environment: field(51).is_some_and(|end| *end != "0"),
    })
}

/// The values of those of `names` that are not empty, from `environ`.
pub fn environment(bytes: &[u8], names: &[&'static str]) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    for entry in bytes.split(|byte| *byte == 0) {
        let Some(equals) = entry.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = entry.split_at(equals);
        let Some(name) = names.iter().find(|wanted| wanted.as_bytes() == name) else {
            continue;
        };
        let value = String::from_utf8_lossy(value.get(1..).unwrap_or_default()).into_owned();
        if !value.is_empty() {
            // The first of two counts, as it does for getenv.
            found.entry(*name).or_insert(value);
        }
    }
    found
}

/// Socket inode and port of a line of `net/tcp` or `net/tcp6` that describes a listening socket.
pub fn listener(line: &str) -> Option<(u64, u16)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let (_, port) = local.rsplit_once(':')?;
    (state == LISTEN).then_some((inode, u16::from_str_radix(port, 16).ok()?))
}
