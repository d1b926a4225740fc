//! The ring buffer's bytes.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// How a wait ended.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    pub has_records: bool,
    /// There is something to read from the other descriptor.
    pub other: bool,
}

/// The user end of the ring buffer `EVENTS`.
pub struct Ring {
    ring: RingBuf<MapData>,
    taken: Position,
    written: Position,
}

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        let fd = descriptor(&ring);
        Ok(Self {
            taken: Position::map(fd, 0)?,
            written: Position::map(fd, page_size() as u64)?,
            ring,
        })
    }

    /// Waits until there is a record, at most `longest`, or until there is something to read from `other`. The kernel side wakes for the first after a
    /// drain only, and may find the ring not empty yet while the last of it is taken: so `longest` is how late a record
    /// may be seen.
    pub fn wait(&self, longest: Duration, other: BorrowedFd<'_>) -> io::Result<Waited> {
        let timeout = Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(longest.subsec_nanos()),
        };
        let mut both = [descriptor(&self.ring), other].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut both, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [has_records, other] = both.map(|fd| !fd.revents().is_empty());
        Ok(Waited { has_records, other })
    }

    /// Hands each waiting record to `take`, at most `most`; how many there were.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < most {
            let Some(record) = self.ring.next() else { break };
            take(&record);
            count += 1;
        }
        count
    }

    /// How much of the ring is in use.
    pub fn waiting_bytes(&self) -> u64 {
        // In this order: the second may only have grown meanwhile.
        let taken = self.taken.read();
        self.written.read().saturating_sub(taken)
    }
}

#[expect(unsafe_code, reason = "aya's ring gives a raw descriptor only")]
fn descriptor(ring: &RingBuf<MapData>) -> BorrowedFd<'_> {
    // SAFETY: the ring owns the descriptor and outlives this borrow.
    unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }
}

/// A count of bytes at the begin of a page of the ring's own, which aya keeps to itself: of what was written, or taken.
struct Position(NonNull<AtomicU64>);

#[expect(unsafe_code, reason = "memory that is shared with the kernel")]
impl Position {
    fn map(ring: BorrowedFd<'_>, offset: u64) -> io::Result<Self> {
        // SAFETY: a new mapping, of which nobody else knows.
        let page = unsafe {
            mmap(
                ptr::null_mut(),
                page_size(),
                ProtFlags::READ,
                MapFlags::SHARED,
                ring,
                offset,
            )?
        };
        let position = NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self(position))
    }

    fn read(&self) -> u64 {
        // SAFETY: a page that begins with this count, mapped for as long as this lives.
        unsafe { self.0.as_ref() }.load(Ordering::Acquire)
    }
}

#[expect(unsafe_code, reason = "the page belongs to no thread")]
// SAFETY: it is read only, and atomically.
unsafe impl Send for Position {}

#[expect(unsafe_code, reason = "memory that is shared with the kernel")]
impl Drop for Position {
    fn drop(&mut self) {
        // SAFETY: what `map` has mapped; nobody holds on to it.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), page_size()) };
    }
}
