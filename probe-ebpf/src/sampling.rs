//! Which requests are reported, decided when they begin.
//!
//! A request that is not sampled is open like any other, so that its calls know what they belong to; it and they make
//! no record and get no `sw8`. At its end it may be reported all the same, if it was slow or in error.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{HashMap, LpmTrie, lpm_trie::Key},
};
use probe_common::{
    array,
    event::go::net_http::{CALL_FAILED, CallEvent, ParentFound, RequestEvent},
    key::GoroutineKey,
    limits::{PATH_MAX, TARGETS_MAX},
    sampling::{
        SAMPLING_HAS_PATHS, SAMPLING_KEEPS_ERRORS, SAMPLING_PATH_MAX, SAMPLING_PATHS_MAX, SAMPLING_RATE,
        SAMPLING_WINDOW, SamplingCounts, SamplingSettings, by_chance, first_in_window, is_error,
        rate_limited,
    },
    target::{TARGET_SAMPLES, TargetInfo},
};

use crate::{
    atomic,
    go::{
        call::CallState,
        request::{self, RequestState},
    },
    memory,
};

/// tgid → how its requests are sampled. The loader inserts, replaces and deletes.
#[map]
static SAMPLING: HashMap<u32, SamplingSettings> = HashMap::with_max_entries(TARGETS_MAX, 0);

/// tgid → what became of them. The loader inserts, reads and deletes.
#[map]
static SAMPLED: HashMap<u32, SamplingCounts> = HashMap::with_max_entries(TARGETS_MAX, 0);

/// The beginning of a path → its ratio; a zero byte ends a path that has to be met as a whole. The longest counts. The
/// loader inserts.
#[map]
static SAMPLING_PATHS: LpmTrie<[u8; SAMPLING_PATH_MAX], u32> =
    LpmTrie::with_max_entries(SAMPLING_PATHS_MAX, 1);

/// How a path is looked up.
pub(crate) type PathKey = Key<[u8; SAMPLING_PATH_MAX]>;

/// In `flags` of a request and of a call: it is not sampled. Above all flags that records have.
pub(crate) const SAMPLED_OUT: u32 = 1 << 31;

/// Decides on the request in the scratch, whose headers and path are known.
#[inline(always)]
pub(crate) fn request(
    state: &mut RequestState,
    is_followed: bool,
    tgid: u32,
    target: &TargetInfo,
    key: &mut PathKey,
) {
    if target.flags & TARGET_SAMPLES == 0 {
        return;
    }
    let Some(counts) = SAMPLED.get_ptr_mut(tgid) else {
        return;
    };
    if is_followed {
        // SAFETY: a live counter in map memory, here and below.
        unsafe { atomic::add_u64(&raw mut (*counts).followed, 1) };
    } else if !decide(counts, tgid, &state.trace_id, &state.path, state.path_len, key) {
        state.flags |= SAMPLED_OUT;
    }
}

/// Decides on a call that belongs to no request.
#[inline(always)]
pub(crate) fn call(state: &mut CallState, tgid: u32, target: &TargetInfo, key: &mut PathKey) {
    if target.flags & TARGET_SAMPLES != 0
        && let Some(counts) = SAMPLED.get_ptr_mut(tgid)
        && !decide(counts, tgid, &state.trace_id, &state.path, state.path_len, key)
    {
        state.flags |= SAMPLED_OUT;
    }
}

#[inline(always)]
fn decide(
    counts: *mut SamplingCounts,
    tgid: u32,
    trace_id: &[u8; 16],
    path: &[u8; PATH_MAX],
    path_len: u16,
    key: &mut PathKey,
) -> bool {
    // SAFETY: the loader replaces it as a whole; a torn read concerns one request at most.
    let Some(settings) = (unsafe { SAMPLING.get(tgid) }) else {
        return true;
    };
    unsafe { atomic::add_u64(&raw mut (*counts).decided, 1) };
    let of_path = if settings.flags & SAMPLING_HAS_PATHS != 0 {
        ratio_of(path, path_len, key)
    } else {
        None
    };
    let is_sampled = match of_path {
        Some(ratio) => by_chance(trace_id, ratio),
        None if settings.method == SAMPLING_RATE || settings.method == SAMPLING_WINDOW => {
            has_room(counts, settings)
        }
        None => by_chance(trace_id, settings.ratio),
    };
    if is_sampled {
        unsafe { atomic::add_u64(&raw mut (*counts).sampled, 1) };
    }
    is_sampled
}

/// The ratio of the rule that fits the path best.
#[inline(always)]
fn ratio_of(path: &[u8; PATH_MAX], path_len: u16, key: &mut PathKey) -> Option<u32> {
    key.prefix_len = SAMPLING_PATH_MAX as u32 * 8;
    memory::copy::<SAMPLING_PATH_MAX>(path.as_ptr(), SAMPLING_PATH_MAX as u32, key.data.as_mut_ptr());
    if usize::from(path_len) < SAMPLING_PATH_MAX {
        // What an earlier path has left behind the zero byte is in no rule.
        // The compiler must not know that it needs no mask: older verifiers do not.
        array::store(&mut key.data, array::bound(u32::from(path_len)) as usize, 0);
    }
    SAMPLING_PATHS.get(&*key).copied()
}

/// How often a decision is tried anew when other processors decide at the same moment.
const TRIES: u32 = 4;

/// Whether the rate allows one more. Beaten by others four times, it does not.
#[inline(always)]
fn has_room(counts: *mut SamplingCounts, settings: &SamplingSettings) -> bool {
    // SAFETY: reads a clock.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let place = unsafe { &raw mut (*counts).memory };
    let mut tries = 0;
    while tries < TRIES {
        // SAFETY: a live number.
        let before = unsafe { core::ptr::read_volatile(place) };
        let next = if settings.method == SAMPLING_WINDOW {
            first_in_window(before, now_ns, settings.per_window)
        } else {
            rate_limited(before, now_ns, settings.token_ns, settings.bucket_ns)
        };
        let Some(next) = next else {
            return false;
        };
        // SAFETY: as above.
        if unsafe { atomic::replace_u64(place, before, next) } {
            return true;
        }
        tries += 1;
    }
    false
}

/// Whether a request that ends is reported. One that is only kept tells how many of its calls were.
#[inline(always)]
pub(crate) fn reports_request(state: &RequestState, event: &mut RequestEvent) -> bool {
    if state.flags & SAMPLED_OUT == 0 {
        return true;
    }
    let duration_ns = event.end_ns - event.start_ns;
    let is_kept = state.kept_calls != 0 || keeps(event.header.tgid, duration_ns, is_error(event));
    count(event.header.tgid, is_kept, is_kept);
    event.flags &= !SAMPLED_OUT;
    event.span_count = 1 + state.kept_calls;
    is_kept
}

/// Whether a call that ends is reported; then its request will be, or if that is over, it stands alone.
#[inline(always)]
pub(crate) fn reports_call(state: &CallState, event: &mut CallEvent) -> bool {
    if state.flags & SAMPLED_OUT == 0 {
        return true;
    }
    let tgid = event.header.tgid;
    let is_error = event.flags & CALL_FAILED != 0 || event.status >= 400;
    let is_kept = keeps(tgid, event.end_ns - event.start_ns, is_error);
    event.flags &= !SAMPLED_OUT;
    let mut is_root = true;
    if is_kept {
        is_root = !keep_parent(state, tgid);
        if is_root {
            event.parent = ParentFound::None;
            event.parent_goid = 0;
            event.segment_id = request::random_id();
            event.span_id = 0;
        }
    }
    count(tgid, is_kept, is_kept && is_root);
    is_kept
}

/// Has the request of a call reported at its end, if it is still open.
#[inline(always)]
fn keep_parent(call: &CallState, tgid: u32) -> bool {
    let key = GoroutineKey {
        goid: call.parent_goid,
        tgid,
        _pad: 0,
    };
    let Some(parent) = request::open(&key).filter(|parent| parent.segment_id == call.segment_id) else {
        return false;
    };
    // SAFETY: a live, aligned counter in map memory.
    unsafe { atomic::add_u32(&raw mut parent.kept_calls, 1) };
    true
}

#[inline(always)]
fn keeps(tgid: u32, duration_ns: u64, is_error: bool) -> bool {
    // SAFETY: as in `decide`.
    let Some(settings) = (unsafe { SAMPLING.get(tgid) }) else {
        return false;
    };
    (is_error && settings.flags & SAMPLING_KEEPS_ERRORS != 0)
        || (settings.keep_slower_than_ns != 0 && duration_ns > settings.keep_slower_than_ns)
}

/// Counts a span that is reported or not, and what is only kept.
#[inline(always)]
fn count(tgid: u32, is_reported: bool, is_kept: bool) {
    let Some(counts) = SAMPLED.get_ptr_mut(tgid) else {
        return;
    };
    // SAFETY: live counters in map memory.
    unsafe {
        if !is_reported {
            atomic::add_u64(&raw mut (*counts).left_out, 1);
        }
        if is_kept {
            atomic::add_u64(&raw mut (*counts).kept, 1);
        }
    }
}
