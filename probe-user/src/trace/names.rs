//! A cap on distinct operation names: OAP stops telling endpoints apart when a service has too many.

use std::{collections::HashMap, sync::Arc};

use probe_common::limits::OPERATION_MAX;

/// How long a name counts after it was last used: the period over which OAP counts.
const WINDOW_NS: u64 = 600 * 1_000_000_000;
/// How often names out of use are sought while the cap is reached.
const SWEEP_NS: u64 = 1_000_000_000;

/// The path in the name of what finds no room.
const OTHER: &str = "/{other}";
/// A method is free text: in the name of what finds no room only these stand.
pub(super) const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE",
];

/// The names in use, per service.
#[derive(Debug)]
pub(super) struct Names {
    max: usize,
    services: HashMap<String, Service>,
}

#[derive(Debug, Default)]
struct Service {
    names: HashMap<Arc<str>, InUse>,
    swept_ns: u64,
}

#[derive(Debug)]
struct InUse {
    /// Shared by all spans that have it.
    name: Arc<str>,
    last_ns: u64,
}

/// A name that may be reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub name: Arc<str>,
    /// It stands for the real one, for which there was no room.
    pub overflowed: bool,
}

impl Names {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            services: HashMap::new(),
        }
    }

    /// Forgets services that are gone: where their names come from pods they never end.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        self.services.retain(|_, service| {
            let is_used = |in_use: &InUse| now_ns.saturating_sub(in_use.last_ns) < WINDOW_NS;
            service.names.values().any(is_used)
        });
    }

    /// The name to report for `operation`. One that has gone out in a header is reported in any case.
    pub(super) fn admit(&mut self, service: &str, operation: &str, sent: bool, now_ns: u64) -> Admitted {
        if let Some(known) = self.services.get_mut(service) {
            return known.admit(operation, sent, now_ns, self.max);
        }
        let new = self.services.entry(service.to_owned()).or_default();
        new.admit(operation, sent, now_ns, self.max)
    }
}

impl Service {
    fn admit(&mut self, operation: &str, sent: bool, now_ns: u64, max: usize) -> Admitted {
        let as_it_is = |name| Admitted {
            name,
            overflowed: false,
        };
        if let Some(in_use) = self.names.get_mut(operation) {
            in_use.last_ns = now_ns.max(in_use.last_ns);
            return as_it_is(Arc::clone(&in_use.name));
        }
        if self.names.len() >= max && now_ns.saturating_sub(self.swept_ns) >= SWEEP_NS {
            self.swept_ns = now_ns;
            self.names
                .retain(|_, in_use| now_ns.saturating_sub(in_use.last_ns) < WINDOW_NS);
        }
        if self.names.len() >= max {
            if sent {
                return as_it_is(operation.into());
            }
            return Admitted {
                name: other(operation).into(),
                overflowed: true,
            };
        }
        let name: Arc<str> = operation.into();
        let in_use = InUse {
            name: Arc::clone(&name),
            last_ns: now_ns,
        };
        self.names.insert(Arc::clone(&name), in_use);
        as_it_is(name)
    }
}

fn other(operation: &str) -> String {
    let method = operation.split(':').next().unwrap_or_default();
    let method = if METHODS.contains(&method) {
        method
    } else {
        "OTHER"
    };
    format!("{method}:{OTHER}")
}

/// Whether this can be a name that was sent; any other comes of a damaged record.
pub(super) fn is_operation(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= OPERATION_MAX && name.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn name(names: &mut Names, operation: &str, now_ns: u64) -> String {
        names.admit("shop", operation, false, now_ns).name.to_string()
    }

    #[test]
    fn above_the_cap_there_is_one_name_a_method() {
        let mut names = Names::new(2);
        assert_eq!(name(&mut names, "GET:/a", 0), "GET:/a");
        assert_eq!(name(&mut names, "GET:/b", 0), "GET:/b");
        assert_eq!(name(&mut names, "GET:/c", 0), "GET:/{other}");
        assert_eq!(name(&mut names, "POST:/c", 0), "POST:/{other}");
        assert_eq!(name(&mut names, "X7:/c", 0), "OTHER:/{other}");
        assert_eq!(name(&mut names, "GET:/a", 0), "GET:/a", "a name in use stays");
        assert!(names.admit("shop", "GET:/d", false, 0).overflowed);
    }

    #[test]
    fn what_was_sent_is_reported() {
        let mut names = Names::new(1);
        assert_eq!(name(&mut names, "GET:/a", 0), "GET:/a");
        let expected = Admitted {
            name: "GET:/b".into(),
            overflowed: false,
        };
        assert_eq!(names.admit("shop", "GET:/b", true, 0), expected);
    }

    #[test]
    fn services_do_not_share() {
        let mut names = Names::new(1);
        assert_eq!(name(&mut names, "GET:/a", 0), "GET:/a");
        assert_eq!(&*names.admit("bank", "GET:/b", false, 0).name, "GET:/b");
    }

    #[test]
    fn names_out_of_use_make_room() {
        let mut names = Names::new(2);
        name(&mut names, "GET:/a", 0);
        name(&mut names, "GET:/b", 0);
        name(&mut names, "GET:/b", 400 * SECOND);
        assert_eq!(name(&mut names, "GET:/c", 599 * SECOND), "GET:/{other}");
        assert_eq!(name(&mut names, "GET:/c", 601 * SECOND), "GET:/c");
        assert_eq!(name(&mut names, "GET:/a", 601 * SECOND), "GET:/{other}");
    }

    #[test]
    fn services_that_are_gone_are_forgotten() {
        let mut names = Names::new(10);
        names.admit("job-1", "GET:/", false, 0);
        names.admit("shop", "GET:/", false, WINDOW_NS);
        names.sweep(WINDOW_NS - 1);
        assert_eq!(names.services.len(), 2);
        names.sweep(WINDOW_NS);
        assert_eq!(names.services.keys().collect::<Vec<_>>(), ["shop"]);
    }
}
