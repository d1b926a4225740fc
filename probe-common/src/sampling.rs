//! Sampling: which requests are reported. What the loader tells the kernel programs of it, what these count, and the
//! arithmetic of the decision.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::{
    EventKind,
    go::net_http::{RequestEnd, RequestEvent},
};

/// Every request is decided by chance: [`SamplingSettings::ratio`] of them are sampled.
pub const SAMPLING_RATIO: u32 = 0;
/// As many as a bucket has tokens for: [`rate_limited`].
pub const SAMPLING_RATE: u32 = 1;
/// The first few of each three seconds: [`first_in_window`].
pub const SAMPLING_WINDOW: u32 = 2;

/// Requests with an error, and failed calls, are reported even if they are not sampled.
pub const SAMPLING_KEEPS_ERRORS: u32 = 1 << 0;
/// There are paths with a ratio of their own.
pub const SAMPLING_HAS_PATHS: u32 = 1 << 1;

/// A ratio of 1.
pub const RATIO_ALL: u32 = u32::MAX;

/// How the requests of a process are sampled: the value of the map `SAMPLING`, whose key is its tgid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SamplingSettings {
    /// `SAMPLING_RATIO`, `SAMPLING_RATE` or `SAMPLING_WINDOW`.
    pub method: u32,
    /// `SAMPLING_KEEPS_ERRORS`, `SAMPLING_HAS_PATHS`.
    pub flags: u32,
    /// Of [`RATIO_ALL`].
    pub ratio: u32,
    /// Requests sampled in three seconds.
    pub per_window: u32,
    /// Nanoseconds in which the bucket gets a token.
    pub token_ns: u64,
    /// Nanoseconds in which an empty bucket fills.
    pub bucket_ns: u64,
    /// What takes longer is reported even if it is not sampled; 0 if nothing is.
    pub keep_slower_than_ns: u64,
}

const _: () = assert!(size_of::<SamplingSettings>() == 40);

/// What became of the requests of a process: the value of the map `SAMPLED`, whose key is its tgid. Only ever counted
/// up, but for the first field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SamplingCounts {
    /// What the method remembers from one decision to the next.
    pub memory: u64,
    /// Requests, and calls that belong to none, whose trace begins here or came without a decision.
    pub decided: u64,
    /// Those of them that were sampled.
    pub sampled: u64,
    /// Requests that were sampled because their caller was.
    pub followed: u64,
    /// Requests, and calls that belong to none, that were not sampled, and reported all the same: slow, or in error.
    pub kept: u64,
    /// Spans that were not reported.
    pub left_out: u64,
}

const _: () = assert!(size_of::<SamplingCounts>() == 48);

/// Bytes of a path that a rule may have.
pub const SAMPLING_PATH_MAX: usize = 64;

/// Paths with a ratio of their own.
pub const SAMPLING_PATHS_MAX: u32 = 1024;

/// Whether chance is on the side of a trace: the same everywhere for one id and one ratio.
#[inline(always)]
pub fn by_chance(trace_id: &[u8; 16], ratio: u32) -> bool {
    // Not its last bytes: of an id that is made here one bit is always set there.
    let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = *trace_id;
    ratio == RATIO_ALL || u32::from_ne_bytes([a, b, c, d]) < ratio
}

/// A token bucket as one number: the time at which it will be full again. What it is after a token was taken; nothing
/// if there is none.
#[inline(always)]
pub const fn rate_limited(full_at_ns: u64, now_ns: u64, token_ns: u64, bucket_ns: u64) -> Option<u64> {
    let full_at_ns = if full_at_ns > now_ns { full_at_ns } else { now_ns };
    let next_ns = full_at_ns + token_ns;
    if next_ns - now_ns > bucket_ns {
        None
    } else {
        Some(next_ns)
    }
}

const WINDOW_NS: u64 = 3_000_000_000;

/// The window's number and how many were sampled in it, as one number. What it is after one more; nothing if that
/// would be too many.
#[inline(always)]
pub const fn first_in_window(memory: u64, now_ns: u64, per_window: u32) -> Option<u64> {
    let window = (now_ns / WINDOW_NS) << 32;
    let count = if memory >> 32 << 32 == window {
        memory as u32
    } else {
        0
    };
    if count < per_window {
        Some(window | (count + 1) as u64)
    } else {
        None
    }
}

/// Whether a server that answers with this status code of gRPC has failed: the rest is the client's doing, or an answer
/// like any. `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`.
#[inline(always)]
pub const fn is_server_error(code: u16) -> bool {
    const CODES: u32 = 1 << 2 | 1 << 4 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 15;
    code < 32 && CODES >> code & 1 != 0
}

/// Whether the request's span will be an error.
#[inline(always)]
pub fn is_error(request: &RequestEvent) -> bool {
    if matches!(request.end, RequestEnd::Panicked) {
        return true;
    }
    if matches!(request.header.kind, EventKind::GoGrpcRequest) {
        is_server_error(request.status)
    } else {
        request.status >= 400
    }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: zerocopy's derives prove that it is plain bytes without padding.
    unsafe impl aya::Pod for super::SamplingSettings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SamplingCounts {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn chance_follows_the_trace_id_and_the_ratio() {
        let mut seed = 1_u64;
        let mut sampled = 0;
        for _ in 0..100_000 {
            let mut id = [0; 16];
            for byte in &mut id {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (seed >> 33) as u8;
            }
            let tenth = by_chance(&id, RATIO_ALL / 10);
            assert_eq!(tenth, by_chance(&id, RATIO_ALL / 10));
            // What a small ratio samples, a larger one does, too.
            assert!(!tenth || by_chance(&id, RATIO_ALL / 2));
            sampled += u32::from(tenth);
        }
        assert!((9_500..10_500).contains(&sampled), "{sampled} of 100,000");
        assert!(by_chance(&[0xff; 16], RATIO_ALL));
        assert!(!by_chance(&[0; 16], 0));
    }

    #[test]
    fn what_the_client_did_wrong_is_no_error_of_the_server() {
        let errors: Vec<u16> = (0..40).filter(|code| is_server_error(*code)).collect();
        assert_eq!(errors, [2, 4, 12, 13, 14, 15]);
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (token_ns, bucket_ns) = (SECOND / 10, 5 * SECOND / 10);
        let (mut memory, mut given) = (0, 0);
        // A hundred ask in each of ten seconds, after a long silence.
        for turn in 0..1_000 {
            if let Some(next) =
                rate_limited(memory, 1_000 * SECOND + turn * SECOND / 100, token_ns, bucket_ns)
            {
                memory = next;
                given += 1;
            }
            if turn == 4 {
                assert_eq!(given, 5, "the burst");
            }
        }
        assert!((103..=105).contains(&given), "{given}");
    }

    #[test]
    fn each_window_has_its_first_few() {
        let mut memory = 0;
        for window in 10..20 {
            let mut given = 0;
            for turn in 0..100 {
                let now_ns = window * WINDOW_NS + turn * WINDOW_NS / 100;
                if let Some(next) = first_in_window(memory, now_ns, 7) {
                    memory = next;
                    given += 1;
                }
            }
            assert_eq!(given, 7);
        }
        assert_eq!(first_in_window(0, 0, 0), None);
    }
}
