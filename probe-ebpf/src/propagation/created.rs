//! Before Linux 6.10 a sockops program is not told in whose task it runs. There, who has made a socket is noted when it
//! is made, and looked up when it connects.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_get_socket_cookie,
    macros::{cgroup_sock, map, sock_ops},
    maps::LruHashMap,
    programs::{SockContext, SockOpsContext},
};

use super::socket;
use crate::target;

const IPPROTO_TCP: u32 = 6;

/// Socket cookie → the target that has made it. One that never connects ages out.
#[map]
static CREATED: LruHashMap<u64, u32> = LruHashMap::with_max_entries(8192, 0);

/// A process of the cgroup makes a socket.
#[cgroup_sock(sock_create)]
pub(crate) fn socket_create(ctx: SockContext) -> i32 {
    // SAFETY: the context is valid for the whole run.
    let protocol = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock).protocol) };
    let tgid = target::tgid();
    if protocol == IPPROTO_TCP && target::find(tgid).is_some_and(|target| target.propagates()) {
        // SAFETY: as above.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        let _full_ages_out = CREATED.insert(cookie, tgid, 0);
    }
    1
}

/// As `socket_connect`, where that one is refused.
#[sock_ops]
pub(crate) fn socket_connect_created(ctx: SockOpsContext) -> u32 {
    socket::changes_state(&ctx, |cookie| {
        // SAFETY: a plain number.
        let tgid = unsafe { CREATED.get(cookie) }.map(|tgid| *tgid);
        let _none_before = CREATED.remove(cookie);
        tgid
    })
}
