//! The only clock: boot time, in which the kernel stamps events, and its distance to wall time.

use rustix::time::{ClockId, Timespec, clock_gettime};

const NANOSECONDS: i128 = 1_000_000_000;
/// Pairs of readings of which the tightest is kept: one that was interrupted between its readings is off by as
/// much, and several in a row are not.
const PAIRINGS: usize = 5;

/// Nanoseconds since the machine started, time asleep included: `bpf_ktime_get_boot_ns`'s clock.
pub fn now_boot_ns() -> u64 {
    unsigned(read_ns(ClockId::Boottime))
}

/// Processor time that this process has used, of all its threads.
pub fn own_cpu_ns() -> u64 {
    unsigned(read_ns(ClockId::ProcessCPUTime))
}

/// From boot time to wall time. The distance moves when the wall clock is set or slewed: read anew now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Wall time at boot.
    offset_ns: i128,
}

impl WallClock {
    /// The distance as it is now.
    pub fn read() -> Self {
        let pairings = (0..PAIRINGS).map(|_| {
            let before_ns = read_ns(ClockId::Boottime);
            let wall_ns = read_ns(ClockId::Realtime);
            let after_ns = read_ns(ClockId::Boottime);
            (
                after_ns - before_ns,
                wall_ns - i128::midpoint(before_ns, after_ns),
            )
        });
        let tightest = pairings.min_by_key(|&(gap_ns, _)| gap_ns);
        Self {
            offset_ns: tightest.map_or(0, |(_, offset_ns)| offset_ns),
        }
    }

    /// A known distance, for replays and tests.
    pub const fn with_offset(offset_ns: u64) -> Self {
        Self {
            offset_ns: offset_ns as i128,
        }
    }

    /// Nanoseconds since 1970 at boot time `boot_ns`.
    pub fn wall_ns(self, boot_ns: u64) -> u64 {
        unsigned(i128::from(boot_ns) + self.offset_ns)
    }

    /// The other way round.
    pub fn boot_ns(self, wall_ns: u64) -> u64 {
        unsigned(i128::from(wall_ns) - self.offset_ns)
    }

    /// How far this reading is from `other`.
    pub fn distance_ns(self, other: Self) -> u64 {
        unsigned((self.offset_ns - other.offset_ns).abs())
    }
}

fn read_ns(clock: ClockId) -> i128 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    i128::from(tv_sec) * NANOSECONDS + i128::from(tv_nsec)
}

/// A wall clock set to before 1970 gives 1970.
fn unsigned(time_ns: i128) -> u64 {
    u64::try_from(time_ns.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn wall_time_is_the_systems() {
        #[expect(clippy::disallowed_methods, reason = "what the clock is compared with")]
        let before = SystemTime::now();
        let ours_ns = WallClock::read().wall_ns(now_boot_ns());
        #[expect(clippy::disallowed_methods, reason = "what the clock is compared with")]
        let after = SystemTime::now();
        let ns =
            |time: SystemTime| u64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
        // The pairing may be off by half its gap; a busy machine gets a millisecond.
        let slack_ns = 1_000_000;
        assert!((ns(before) - slack_ns..=ns(after) + slack_ns).contains(&ours_ns));
    }

    #[test]
    fn boot_time_is_that_of_proc_uptime() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let ours = now_boot_ns() as f64 / 1e9;
        assert!((ours - seconds).abs() < 1.0, "{ours} {seconds}");
    }

    #[test]
    fn two_readings_agree() {
        let distance_ns = WallClock::read().distance_ns(WallClock::read());
        assert!(distance_ns < 5_000_000, "{distance_ns}");
    }

    #[test]
    fn there_and_back() {
        let clock = WallClock::with_offset(1_700_000_000_000_000_000);
        assert_eq!(clock.wall_ns(5), 1_700_000_000_000_000_005);
        assert_eq!(clock.boot_ns(clock.wall_ns(5)), 5);
        assert_eq!(clock.boot_ns(7), 0);
    }
}
