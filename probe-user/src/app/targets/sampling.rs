//! Which requests of the targets are reported: tells the kernel, adds up what it counts, and lets `adaptive` follow the
//! load.

use std::{collections::HashMap, sync::Arc};

use probe_common::sampling::{
    RATIO_ALL, SAMPLING_HAS_PATHS, SAMPLING_KEEPS_ERRORS, SAMPLING_RATE, SAMPLING_RATIO, SAMPLING_WINDOW,
    SamplingSettings,
};
use tracing::{info, warn};

use crate::{
    clock,
    config::{Ratio, Sampling, SamplingMethod},
    kernel::{Kernel, load::LoadError},
    telemetry::{Sampled, Telemetry},
    words::percent,
};

const NANOSECONDS: u64 = 1_000_000_000;

/// What the hooks of a sampled request cost its program, beyond those of one that is not: making the record, and the
/// headers of its calls. About what docs/performance.md measures; the probe's own part is measured as it goes.
const HOOKS_NS: u64 = 3_000;

/// Sampling, for all targets.
pub(super) struct Sampler {
    config: Sampling,
    telemetry: Arc<Telemetry>,
    targets: HashMap<u32, Target>,
    looked: Look,
}

/// What was last seen of a process.
#[derive(Default)]
struct Target {
    sampled: Sampled,
    settings: SamplingSettings,
}

/// The moment of a look, and the probe's own processor time then.
#[derive(Clone, Copy)]
struct Look {
    at_ns: u64,
    own_cpu_ns: u64,
}

impl Look {
    fn now() -> Self {
        Self {
            at_ns: clock::now_boot_ns(),
            own_cpu_ns: clock::own_cpu_ns(),
        }
    }
}

impl Sampler {
    pub(super) fn new(config: Sampling, telemetry: Arc<Telemetry>) -> Self {
        Self {
            config,
            telemetry,
            targets: HashMap::new(),
            looked: Look::now(),
        }
    }

    /// Tells the kernel what holds for all processes.
    pub(super) fn start(&self, kernel: &mut Kernel) {
        for path in &self.config.paths {
            if let Err(error) = kernel.sample_path(&path.path, path.is_prefix, path.ratio.0) {
                let error = crate::chain(&error);
                warn!(path = path.path, %error, "Path not sampled by its own ratio");
            }
        }
    }

    /// Whether requests may be left out.
    pub(super) fn is_on(&self) -> bool {
        self.config.is_on()
    }

    /// The process is about to become a target.
    pub(super) fn add(&mut self, pid: u32, kernel: &mut Kernel) -> Result<(), LoadError> {
        if !self.is_on() {
            return Ok(());
        }
        let settings = settings(&self.config);
        kernel.sample(pid, &settings)?;
        let sampled = Sampled::default();
        self.targets.insert(pid, Target { sampled, settings });
        Ok(())
    }

    /// The process is none any more.
    pub(super) fn remove(&mut self, pid: u32, kernel: &mut Kernel) {
        let Some(mut target) = self.targets.remove(&pid) else {
            return;
        };
        target.take(pid, kernel, &self.telemetry);
        let Sampled {
            decided,
            sampled,
            followed,
            kept,
            left_out: _,
        } = target.sampled;
        let rate = target.sampled.rate();
        info!(pid, decided, sampled, rate, followed, kept, "Process sampled");
        // It may be told anew under the same id.
        let _ = kernel.sample_no_more(pid);
    }

    /// Adds up what was counted since the last look, and lets `adaptive` follow it.
    pub(super) fn look(&mut self, kernel: &mut Kernel) {
        if self.targets.is_empty() {
            return;
        }
        let now = Look::now();
        let before = std::mem::replace(&mut self.looked, now);
        let deltas: Vec<(u32, Sampled)> = self
            .targets
            .iter_mut()
            .map(|(pid, target)| (*pid, target.take(*pid, kernel, &self.telemetry)))
            .collect();
        let SamplingMethod::Adaptive {
            threshold_per_second,
            cpu_permille,
        } = self.config.method
        else {
            return;
        };
        let reported: u64 = deltas.iter().map(|(_, delta)| delta.reported()).sum();
        let own_ns = now.own_cpu_ns.saturating_sub(before.own_cpu_ns);
        let budget = Budget {
            interval_ns: now.at_ns.saturating_sub(before.at_ns),
            threshold_per_second,
            cpu_permille,
            request_ns: HOOKS_NS + own_ns.checked_div(reported).unwrap_or(0),
        };
        for (pid, delta) in deltas {
            let Some(target) = self.targets.get_mut(&pid) else {
                continue;
            };
            let ratio = budget.ratio(&delta, Ratio(target.settings.ratio));
            if ratio.0 == target.settings.ratio {
                continue;
            }
            let rate = percent(u64::from(ratio.0), u64::from(RATIO_ALL));
            info!(pid, rate, "Sampling adapted to the load");
            target.settings.ratio = ratio.0;
            if let Err(error) = kernel.sample(pid, &target.settings) {
                let error = crate::chain(&error);
                warn!(pid, %error, "Sampling not adapted");
            }
        }
    }
}

impl Target {
    /// What was counted since the last time.
    fn take(&mut self, pid: u32, kernel: &mut Kernel, telemetry: &Telemetry) -> Sampled {
        let Some(counts) = kernel.sampled(pid) else {
            return Sampled::default();
        };
        let now = Sampled::from(counts);
        let delta = now.since(std::mem::replace(&mut self.sampled, now));
        telemetry.sampled(delta);
        delta
    }
}

/// The settings that a process begins with.
fn settings(config: &Sampling) -> SamplingSettings {
    let mut settings = SamplingSettings {
        method: SAMPLING_RATIO,
        ratio: RATIO_ALL,
        keep_slower_than_ns: config.keep_slower_than_ms.saturating_mul(1_000_000),
        ..SamplingSettings::default()
    };
    if config.keep_errors {
        settings.flags |= SAMPLING_KEEPS_ERRORS;
    }
    if !config.paths.is_empty() {
        settings.flags |= SAMPLING_HAS_PATHS;
    }
    match config.method {
        SamplingMethod::All | SamplingMethod::Adaptive { .. } => {}
        SamplingMethod::Constant { ratio } => settings.ratio = ratio.0,
        SamplingMethod::RateLimiting {
            rate_per_second,
            burst_size,
        } => {
            settings.method = SAMPLING_RATE;
            settings.token_ns = NANOSECONDS / u64::from(rate_per_second.max(1));
            settings.bucket_ns = settings.token_ns * u64::from(burst_size);
        }
        SamplingMethod::NPer3Secs { count } => {
            settings.method = SAMPLING_WINDOW;
            settings.per_window = count;
        }
    }
    settings
}

/// What `adaptive` may spend on one process, and what it has.
struct Budget {
    interval_ns: u64,
    threshold_per_second: u32,
    cpu_permille: u32,
    /// What a request costs that is reported.
    request_ns: u64,
}

impl Budget {
    /// The ratio that would have kept within the budget, given what came. It falls at once, and recovers by doubling.
    fn ratio(&self, came: &Sampled, before: Ratio) -> Ratio {
        let all = u64::from(RATIO_ALL);
        let of_all = |part: u64, of: u64| {
            let ratio = u128::from(part) * u128::from(all) / u128::from(of.max(1));
            u32::try_from(ratio).unwrap_or(RATIO_ALL)
        };
        let threshold = u64::from(self.threshold_per_second) * self.interval_ns / NANOSECONDS;
        let spent_ns = came.followed * self.request_ns;
        let left_ns = (self.interval_ns / 1_000 * u64::from(self.cpu_permille)).saturating_sub(spent_ns);
        let affordable = left_ns / self.request_ns.max(1);
        let wanted = of_all(threshold.max(affordable), came.decided);
        Ratio(wanted.min(before.0.saturating_mul(2).max(RATIO_ALL / 1_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Ratio = Ratio(RATIO_ALL);

    /// 2 s, of which a tenth of a processor is 200 ms: 20,000 requests.
    const BUDGET: Budget = Budget {
        interval_ns: 2 * NANOSECONDS,
        threshold_per_second: 100,
        cpu_permille: 100,
        request_ns: 10_000,
    };

    fn came(decided: u64, followed: u64) -> Sampled {
        Sampled {
            decided,
            followed,
            ..Sampled::default()
        }
    }

    fn near(ratio: Ratio, wanted: f64) {
        let got = f64::from(ratio.0) / f64::from(RATIO_ALL);
        assert!((got - wanted).abs() < 0.001, "{got} instead of {wanted}");
    }

    #[test]
    fn within_the_budget_all_are_sampled() {
        for count in [0, 1, 200, 20_000] {
            assert_eq!(BUDGET.ratio(&came(count, 0), ALL), ALL);
        }
    }

    #[test]
    fn above_it_the_ratio_falls_at_once_and_recovers_by_and_by() {
        let tenth = BUDGET.ratio(&came(200_000, 0), ALL);
        near(tenth, 0.1);
        near(BUDGET.ratio(&came(200_000, 0), tenth), 0.1);
        near(BUDGET.ratio(&came(1_000, 0), tenth), 0.2);
        near(BUDGET.ratio(&came(1_000, 0), Ratio(0)), 0.001);
        assert_eq!(BUDGET.ratio(&came(1_000, 0), Ratio(RATIO_ALL / 2 + 1)), ALL);
    }

    #[test]
    fn what_has_to_be_followed_is_paid_first_but_the_threshold_holds() {
        near(BUDGET.ratio(&came(200_000, 10_000), ALL), 0.05);
        near(BUDGET.ratio(&came(200_000, 30_000), ALL), 0.001);
        near(BUDGET.ratio(&came(400, 30_000), ALL), 0.5);
    }

    #[test]
    fn a_bucket_in_nanoseconds() {
        let settings = settings(&Sampling {
            method: SamplingMethod::RateLimiting {
                rate_per_second: 50,
                burst_size: 10,
            },
            paths: Vec::new(),
            keep_errors: true,
            keep_slower_than_ms: 20,
        });
        assert_eq!(settings.method, SAMPLING_RATE);
        assert_eq!((settings.token_ns, settings.bucket_ns), (20_000_000, 200_000_000));
        assert_eq!(settings.flags, SAMPLING_KEEPS_ERRORS);
        assert_eq!(settings.keep_slower_than_ns, 20_000_000);
    }
}
