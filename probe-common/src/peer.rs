//! Peers: the address and the port that a call goes to.

use crate::{
    array::{bound, entry, load},
    limits::{HOST_MAX, PEER_MAX},
};

/// A colon begins a port.
const BEGINS: u32 = 1;
/// The brackets around an IPv6 address hold colons of its own.
const BEGAN_NONE: u32 = 2;

static MARKS: [u32; 256] = {
    let mut table = [0; 256];
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    {
        table[b':' as usize] = BEGINS;
        table[b']' as usize] = BEGAN_NONE;
    }
    table
};

/// Whether the host that is the first `len` bytes, at most [`HOST_MAX`], has a port behind it.
///
/// By a table, since a branch would double what the verifier walks.
#[inline(always)]
pub fn has_port(host: &[u8; PEER_MAX], len: u32) -> bool {
    let len = bound(len);
    let mut begun = 0;
    for at in 0..HOST_MAX as u32 {
        if at >= len {
            break;
        }
        let mark = entry(&MARKS, load(host, at as usize) as usize);
        begun = (begun | (mark & BEGINS)) & !(mark / BEGAN_NONE);
    }
    begun != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_behind_the_host_is_a_port() {
        for (host, expected) in [
            ("", false),
            ("shop", false),
            ("shop:80", true),
            ("[::1]", false),
            ("[::1]:8080", true),
            ("127.0.0.1", false),
            ("127.0.0.1:1", true),
        ] {
            let mut bytes = [b':'; PEER_MAX];
            bytes[..host.len()].copy_from_slice(host.as_bytes());
            assert_eq!(has_port(&bytes, host.len() as u32), expected, "{host:?}");
        }
        assert!(!has_port(&[b'a'; PEER_MAX], u32::MAX));
    }
}
