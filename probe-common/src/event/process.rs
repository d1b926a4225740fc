//! Processes that come and go.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use super::EventHeader;

/// A process has executed a program or ended.
#[derive(Clone, Copy, Debug, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessEvent {
    pub header: EventHeader,
    /// `CLOCK_BOOTTIME`.
    pub time_ns: u64,
}

const _: () = assert!(size_of::<ProcessEvent>() == 16);
