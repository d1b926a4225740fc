//! The client: a call from `Transport.roundTrip` to its return. Exit spans, and the header that goes with them.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::{map, uprobe},
    maps::HashMap,
    programs::ProbeContext,
};
use probe_common::{
    event::{
        EventHeader, EventKind,
        go::net_http::{
            CALL_FAILED, CALL_KEEP_PATH, CALL_TRACE_FOREIGN, CALL_TRUNCATED, CallEvent, ERROR_TEXT_MAX,
            ErrorSnapshot, ErrorValue, ParentFound, REQUEST_SW8_CONTINUED,
        },
    },
    field::{GoField, Offsets},
    key::{GoroutineKey, SocketKey},
    limits::{CALL_STATE_BYTES, HEAD_MAX, HOST_MAX, METHOD_MAX, OPEN_REQUESTS_MAX, PATH_MAX, PEER_MAX},
    loss::LossReason,
    propagation::Outcome,
    target::{TARGET_KEEP_PATHS, TargetInfo},
};

use super::request::{self, append};
use crate::{
    emit,
    go::{self, Hit, Registers},
    log::kernel_log,
    maps::{self, PREPARED},
    memory::{self, GoInterface, GoString, Window},
    propagation::header,
    scratch::{self, Scratch},
};

/// Bytes of `https` and room to spare.
const SCHEME_MAX: usize = 8;

/// A call under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct CallState {
    start_ns: u64,
    pub(crate) parent_goid: u64,
    pub(crate) trace_id: [u8; 16],
    pub(crate) segment_id: [u8; 16],
    pub(crate) span_id: u32,
    pub(crate) parent: ParentFound,
    pub(crate) flags: u32,
    /// An `Outcome`. While it is `NotSeen`, `socket` says where the header was prepared.
    pub(crate) outcome: u32,
    pub(crate) socket: SocketKey,
    /// What is sent of it at its end.
    pub(crate) kind: EventKind,
    /// The stream on the socket's connection, where that has streams.
    pub(crate) stream: u32,
    pub(crate) method_len: u16,
    scheme_len: u16,
    pub(crate) peer_len: u16,
    pub(crate) path_len: u16,
    pub(crate) method: [u8; METHOD_MAX],
    scheme: [u8; SCHEME_MAX],
    /// Room for a default port behind the longest host.
    pub(crate) peer: [u8; PEER_MAX],
    pub(crate) path: [u8; PATH_MAX],
}

const _: () = assert!(size_of::<CallState>() == CALL_STATE_BYTES);

/// GoroutineKey → the call that the goroutine waits for. Deleted at the call's return; what a dying process
/// leaves, the loader sweeps.
#[map]
static GO_CALLS: HashMap<GoroutineKey, CallState> = HashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// A client begins a call.
///
/// `func (t *Transport) roundTrip(req *Request) (*Response, error)`: word 1 the transport, 2 the request.
#[uprobe]
pub(crate) fn go_net_http_round_trip(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(&ctx)
    else {
        return 0;
    };
    let _counted = scratch::with(|scratch| begin(registers, tgid, target, scratch));
    0
}

#[inline(always)]
fn begin(registers: Registers, tgid: u32, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let offsets = &target.offsets;
    let Some(goroutine) = go::goroutine(tgid, registers.g(), offsets) else {
        return emit::lose(LossReason::ReadFault);
    };
    let state = &mut scratch.call;
    state.begin(EventKind::GoNetHttpCall, target);
    state.flags = if target.flags & TARGET_KEEP_PATHS != 0 {
        CALL_KEEP_PATH
    } else {
        0
    };
    let Some(context) = read_request(state, registers.word::<2>(), offsets, &mut scratch.window) else {
        return emit::lose(LossReason::ReadFault);
    };
    find_parent(state, &goroutine, registers.g(), context, offsets);
    kernel_log!(
        "call begins on goroutine {} of {}, parent found by way {}",
        goroutine.goid,
        tgid,
        state.parent as u32
    );
    if GO_CALLS.insert(&goroutine, &*state, 0).is_err() {
        return emit::lose(LossReason::CallsFull);
    }
    Some(())
}

/// Method, peer, path; the address of the context.
#[inline(always)]
fn read_request(state: &mut CallState, request: u64, offsets: &Offsets, window: &mut Window) -> Option<u64> {
    let context_at = offsets.get(GoField::RequestCtx)?;
    let fields = window.fetch(request, context_at + 8)?;
    let method = fields.string(offsets.get(GoField::RequestMethod)?)?;
    state.method_len = memory::read_string::<METHOD_MAX>(method, state.method.as_mut_ptr())?;
    let context = fields.interface(context_at)?;
    let url = fields.word(offsets.get(GoField::RequestUrl)?)?;
    let path_at = offsets.get(GoField::UrlPath)?;
    let fields = window.fetch(url, path_at + 8)?;
    let scheme = fields.string(offsets.get(GoField::UrlScheme)?)?;
    state.scheme_len = memory::read_string::<SCHEME_MAX>(scheme, state.scheme.as_mut_ptr())?;
    let host = fields.string(offsets.get(GoField::UrlHost)?)?;
    state.peer_len = memory::read_string::<HOST_MAX>(host, state.peer.as_mut_ptr())?;
    let path = fields.string(path_at)?;
    state.path_len = memory::read_string::<PATH_MAX>(path, state.path.as_mut_ptr())?;
    if path.len > PATH_MAX as u64 || host.len > HOST_MAX as u64 {
        state.flags |= CALL_TRUNCATED;
    }
    add_default_port(state);
    Some(context.data)
}

/// A peer is an address and a port, also where the URL leaves the scheme's own port out.
#[inline(always)]
fn add_default_port(state: &mut CallState) {
    let mut colon = false;
    let mut index: usize = 0;
    while index < HOST_MAX {
        if index >= state.peer_len as usize {
            break;
        }
        // The brackets around an IPv6 address hold colons of its own.
        match state.peer[index] {
            b':' => colon = true,
            b']' => colon = false,
            _ => {}
        }
        index += 1;
    }
    if colon || state.peer_len == 0 {
        return;
    }
    let at = state.peer_len as usize & (PEER_MAX - 1);
    let port: [u8; 4] = if state.scheme_len == 5 {
        *b":443"
    } else {
        *b":80\0"
    };
    let mut index = 0;
    while index < 4 {
        state.peer[(at + index) & (PEER_MAX - 1)] = port[index];
        index += 1;
    }
    state.peer_len += if state.scheme_len == 5 { 4 } else { 3 };
}

/// Whose child the call is: of the request whose context its own derives from, else of the request that its
/// goroutine serves, else of the request that its goroutine was made in; and only of an open one.
#[inline(always)]
pub(crate) fn find_parent(
    state: &mut CallState,
    goroutine: &GoroutineKey,
    g: u64,
    context: u64,
    offsets: &Offsets,
) {
    let mut key = *goroutine;
    let mut found = ParentFound::None;
    if let Some(goid) = request::by_context(goroutine.tgid, context) {
        key.goid = goid;
        found = ParentFound::Context;
    }
    let mut parent = request::open(&key);
    if matches!(found, ParentFound::None) {
        if parent.is_some() {
            found = ParentFound::Goroutine;
        } else if let Some(creator) = creator(g, offsets) {
            key.goid = creator;
            parent = request::open(&key);
            // The creator may have gone on to its next request since: only a goroutine that is younger than the
            // request was made in it.
            if let Some(request) = &parent
                && (goroutine.goid >= request.goid_unused
                    || (goroutine.goid >= request.goid_first && goroutine.goid < request.goid_end))
            {
                found = ParentFound::Ancestry;
            }
        }
    }
    match parent {
        Some(request) if !matches!(found, ParentFound::None) => {
            state.parent = found;
            state.parent_goid = key.goid;
            state.trace_id = request.trace_id;
            state.segment_id = request.segment_id;
            state.span_id = request::next_span(request);
            if request.flags & REQUEST_SW8_CONTINUED != 0 {
                state.flags |= CALL_TRACE_FOREIGN;
            }
        }
        Some(_) | None => {
            state.parent = ParentFound::None;
            state.parent_goid = 0;
            state.trace_id = request::random_id();
            state.segment_id = request::random_id();
            state.span_id = 0;
        }
    }
}

/// The goroutine that made the running one; Go keeps it since 1.21.
#[inline(always)]
fn creator(g: u64, offsets: &Offsets) -> Option<u64> {
    memory::read(g + offsets.get(GoField::GParentGoid)?)
}

/// The transport has a connection for the call and is about to have its request written.
///
/// `func (pc *persistConn) roundTrip(req *transportRequest) (resp *Response, err error)`: word 1 the connection.
/// The goroutine that writes is another one, and is told only after this.
#[uprobe]
pub(crate) fn go_net_http_persist_conn_round_trip(ctx: ProbeContext) -> u32 {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::entered(&ctx)
    else {
        return 0;
    };
    if !target.propagates() {
        return 0;
    }
    let _noted = scratch::with(|scratch| prepare(registers, tgid, target, scratch));
    0
}

#[inline(always)]
fn prepare(registers: Registers, tgid: u32, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let offsets = &target.offsets;
    let goroutine = go::goroutine(tgid, registers.g(), offsets)?;
    // SAFETY: only the goroutine itself touches its entry.
    let state = unsafe { &mut *GO_CALLS.get_ptr_mut(&goroutine)? };
    let connection = registers.word::<1>();
    let tls_at = offsets.get(GoField::PersistConnTlsState)?;
    let fields = scratch.window.fetch(connection, tls_at)?;
    if fields.word(tls_at)? != 0 {
        state.outcome = Outcome::Encrypted as u32;
        return emit::lose(LossReason::PropagationEncrypted);
    }
    let conn = fields.interface(offsets.get(GoField::PersistConnConn)?)?;
    let Some(socket) = socket(conn.data, tgid, offsets, &mut scratch.window) else {
        state.outcome = Outcome::UnknownConnection as u32;
        return emit::lose(LossReason::PropagationUnknownConnection);
    };
    if header::write::<false>(state, target, tgid, scratch).is_none() {
        state.outcome = Outcome::TooLong as u32;
        return emit::lose(LossReason::PropagationTooLong);
    }
    state.socket = socket;
    state.outcome = Outcome::NotSeen as u32;
    let _ages_out = PREPARED.insert(&socket, &scratch.prepared, 0);
    Some(())
}

/// The connection's socket, if it is a TCP connection of package `net`, or a wrapper that embeds one as its first
/// field, as those have that only count or watch (Prometheus dials so).
///
/// One layer only: a wrapper around a `tls.Conn` must not be looked through, whose first field is a connection too.
#[inline(always)]
pub(crate) fn socket(conn: u64, tgid: u32, offsets: &Offsets, window: &mut Window) -> Option<SocketKey> {
    if let Some(socket) = tcp_socket(conn, tgid, offsets, window) {
        return Some(socket);
    }
    let embedded: GoInterface = memory::read(conn)?;
    tcp_socket(embedded.data, tgid, offsets, window)
}

/// The socket of a `*net.TCPConn`; of anything else nothing, since no other type has "tcp" in that place.
#[inline(always)]
fn tcp_socket(conn: u64, tgid: u32, offsets: &Offsets, window: &mut Window) -> Option<SocketKey> {
    // `net.TCPConn` is a `net.conn`, which is a pointer to its `netFD`.
    let fd: u64 = memory::read(conn)?;
    let remote_at = offsets.get(GoField::NetFdRaddr)?;
    let fields = window.fetch(fd, remote_at + 8)?;
    let network = fields.string(offsets.get(GoField::NetFdNet)?)?;
    let name: [u8; 3] = memory::read(network.address)?;
    if network.len < 3 || network.len > 4 || name != *b"tcp" {
        return None;
    }
    let local = fields.interface(offsets.get(GoField::NetFdLaddr)?)?;
    let remote = fields.interface(remote_at)?;
    let port_at = offsets.get(GoField::TcpAddrPort)?;
    let local_port: u64 = memory::read(local.data + port_at)?;
    let fields = window.fetch(remote.data, port_at)?;
    let remote_port = fields.word(port_at)?;
    let ip = fields.string(offsets.get(GoField::TcpAddrIp)?)?;
    let remote_address = if ip.len == 16 {
        memory::read(ip.address)?
    } else if ip.len == 4 {
        mapped(memory::read(ip.address)?)
    } else {
        return None;
    };
    Some(SocketKey {
        remote_address,
        tgid,
        local_port: local_port as u16,
        remote_port: remote_port as u16,
    })
}

/// An IPv4 address as IPv6 writes it.
#[inline(always)]
pub(crate) fn mapped(ip: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ip[0], ip[1], ip[2], ip[3],
    ]
}

/// A call has succeeded.
///
/// At the branch of `func (t *Transport) roundTrip(req *Request) (*Response, error)` on the error that the connection's
/// own `roundTrip` has returned: word 1 the response, 2 the error's type. What fails may be tried again on another
/// connection, and is seen when it is returned.
#[uprobe]
pub(crate) fn go_net_http_round_trip_success(ctx: ProbeContext) -> u32 {
    if go::registers(&ctx).word::<2>() == 0 {
        end(&ctx);
    }
    0
}

/// A call returns, without a response or in a way that the program above does not see.
///
/// `func (t *Transport) roundTrip(req *Request) (*Response, error)`: results: word 1 the response, 2 and 3 the
/// error. On amd64 a `RET` is single-stepped, the dearest hook there is.
#[uprobe]
pub(crate) fn go_net_http_round_trip_return(ctx: ProbeContext) -> u32 {
    end(&ctx);
    0
}

#[inline(always)]
fn end(ctx: &ProbeContext) {
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::hit(ctx)
    else {
        return;
    };
    let Some(goroutine) = go::goroutine(tgid, registers.g(), &target.offsets) else {
        emit::count(LossReason::ReadFault);
        return;
    };
    let Some(state) = GO_CALLS.get_ptr_mut(&goroutine) else {
        // Began before the probe, or was counted as lost at its start.
        return;
    };
    // SAFETY: only the goroutine itself touches its entry.
    let state = unsafe { &*state };
    let _counted = scratch::with(|scratch| send(registers, state, &goroutine, target, scratch));
    let _ours_alone = GO_CALLS.remove(&goroutine);
}

#[inline(always)]
fn send(
    registers: Registers,
    state: &CallState,
    goroutine: &GoroutineKey,
    target: &TargetInfo,
    scratch: &mut Scratch,
) -> Option<()> {
    let mut event = state.event(goroutine, outcome(state));
    let error = registers.word::<2>();
    if error != 0 {
        event.flags |= CALL_FAILED;
        let error = GoInterface {
            kind: error,
            data: registers.word::<3>(),
        };
        snapshot_error(error, snapshot(scratch));
    } else if let Some((status, bytes)) =
        read_response(registers.word::<1>(), &target.offsets, &mut scratch.window)
    {
        event.status = status;
        event.response_bytes = bytes;
    }
    emit_call(state, event, scratch)
}

/// Where the error of a failed call goes in its record.
#[inline(always)]
pub(crate) fn snapshot(scratch: &mut Scratch) -> &mut ErrorSnapshot {
    // SAFETY: it fits behind the event, at an 8-aligned place, and any bytes are one.
    unsafe {
        let place = scratch.record.as_mut_ptr().add(size_of::<CallEvent>());
        &mut *place.cast::<ErrorSnapshot>()
    }
}

/// Sends the record of a call, with the error that is in its place if the call has failed.
#[inline(always)]
pub(crate) fn emit_call(state: &CallState, event: CallEvent, scratch: &mut Scratch) -> Option<()> {
    let record = scratch.record.as_mut_ptr();
    let mut at = size_of::<CallEvent>() as u32;
    if event.flags & CALL_FAILED != 0 {
        at += size_of::<ErrorSnapshot>() as u32;
    }
    at += append::<METHOD_MAX>(record, at, state.method.as_ptr(), event.method_len);
    at += append::<SCHEME_MAX>(record, at, state.scheme.as_ptr(), event.scheme_len);
    at += append::<PEER_MAX>(record, at, state.peer.as_ptr(), event.peer_len);
    at += append::<PATH_MAX>(record, at, state.path.as_ptr(), event.path_len);
    // SAFETY: the record is larger than the event, and 8-aligned.
    unsafe { record.cast::<CallEvent>().write(event) };
    if at > HEAD_MAX as u32 {
        at = HEAD_MAX as u32;
    }
    emit::send(record, u64::from(at))
}

// === impl CallState ===

impl CallState {
    /// Begins anew, now.
    #[inline(always)]
    pub(crate) fn begin(&mut self, kind: EventKind, target: &TargetInfo) {
        // SAFETY: reads a clock.
        self.start_ns = unsafe { bpf_ktime_get_boot_ns() };
        self.kind = kind;
        self.outcome = if target.propagates() {
            Outcome::NoConnection as u32
        } else {
            Outcome::Off as u32
        };
        self.method_len = 0;
        self.scheme_len = 0;
    }

    /// Its record, ended now; what is read at the end is still to be filled in.
    #[inline(always)]
    pub(crate) fn event(&self, goroutine: &GoroutineKey, outcome: u32) -> CallEvent {
        CallEvent {
            header: EventHeader {
                kind: self.kind,
                tgid: goroutine.tgid,
            },
            start_ns: self.start_ns,
            // SAFETY: reads a clock.
            end_ns: unsafe { bpf_ktime_get_boot_ns() },
            goid: goroutine.goid,
            parent_goid: self.parent_goid,
            trace_id: self.trace_id,
            segment_id: self.segment_id,
            response_bytes: -1,
            span_id: self.span_id,
            parent: self.parent,
            flags: self.flags,
            propagation: outcome,
            status: 0,
            method_len: self.method_len,
            scheme_len: self.scheme_len,
            peer_len: self.peer_len,
            path_len: self.path_len,
            _pad: [0; 6],
        }
    }
}

/// What became of the header, which `socket_message` has noted beside it.
#[inline(always)]
fn outcome(state: &CallState) -> u32 {
    if state.outcome != Outcome::NotSeen as u32 {
        return state.outcome;
    }
    maps::settle(&PREPARED, &state.socket)
}

#[inline(always)]
fn read_response(response: u64, offsets: &Offsets, window: &mut Window) -> Option<(u16, i64)> {
    let length_at = offsets.get(GoField::ResponseContentLength)?;
    let window = window.fetch(response, length_at)?;
    let status = window.word(offsets.get(GoField::ResponseStatusCode)?)?;
    Some((status as u16, window.word(length_at)? as i64))
}

/// Where `net.OpError` keeps the error it wraps: behind two strings and two interfaces.
const OP_ERROR_ERR: u64 = 64;
/// Where `os.SyscallError` keeps the error it wraps: behind a string.
const SYSCALL_ERROR_ERR: u64 = 16;

/// Reads an error and what it may wrap, without knowing types: user space knows them and takes what applies.
#[inline(always)]
fn snapshot_error(error: GoInterface, snapshot: &mut ErrorSnapshot) {
    let [value, wrapped, op_error, syscall_error] = &mut snapshot.values;
    snapshot_value(error, value);
    snapshot_wrapped(error.data, 0, wrapped);
    let inner = snapshot_wrapped(error.data, OP_ERROR_ERR, op_error);
    snapshot_wrapped(inner, SYSCALL_ERROR_ERR, syscall_error);
}

/// Reads what an interface at `offset` of `data` would hold; the data's address.
#[inline(always)]
fn snapshot_wrapped(data: u64, offset: u64, to: &mut ErrorValue) -> u64 {
    let interface = memory::read(data.wrapping_add(offset)).unwrap_or(GoInterface { kind: 0, data: 0 });
    snapshot_value(interface, to);
    interface.data
}

#[inline(never)]
pub(crate) fn snapshot_value(interface: GoInterface, to: &mut ErrorValue) {
    // The first word of an `error` is an `itab`, which names the type in its second word.
    to.type_address = if interface.kind == 0 {
        0
    } else {
        memory::read(interface.kind + 8).unwrap_or(0)
    };
    to.word = memory::read(interface.data).unwrap_or(0);
    to._pad = 0;
    to.text_len = 0;
    if let Some(text) = memory::read::<GoString>(interface.data)
        && let Some(len) = memory::read_string::<ERROR_TEXT_MAX>(text, to.text.as_mut_ptr())
    {
        to.text_len = u32::from(len);
    }
}
