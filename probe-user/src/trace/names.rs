//! A cap on distinct operation names: OAP stops telling endpoints apart when a service has too many.

use std::collections::HashMap;

use probe_common::{limits::OPERATION_MAX, operation::Operation};

/// How long a name counts after it was last used: the period over which OAP counts.
const WINDOW_NS: u64 = 600 * 1_000_000_000;
/// How often names out of use are sought while the cap is reached.
const SWEEP_NS: u64 = 1_000_000_000;

/// The path in the name of what finds no room.
const OTHER: &str = "/{other}";
/// A method is free text: in the name of what finds no room only these stand.
const METHODS: [&str; 9] = [
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
    /// When each was last used.
    names: HashMap<String, u64>,
    swept_ns: u64,
}

/// A name that may be reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub name: String,
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

    /// The name to report for `operation`. One that has gone out in a header is reported in any case.
    pub(super) fn admit(&mut self, service: &str, operation: &str, sent: bool, now_ns: u64) -> Admitted {
        if !self.services.contains_key(service) {
            self.services.insert(service.to_owned(), Service::default());
        }
        let admitted = Admitted {
            name: operation.to_owned(),
            overflowed: false,
        };
        let Some(names) = self.services.get_mut(service) else {
            return admitted;
        };
        if let Some(used_ns) = names.names.get_mut(operation) {
            *used_ns = now_ns.max(*used_ns);
            return admitted;
        }
        if names.names.len() >= self.max && now_ns.saturating_sub(names.swept_ns) >= SWEEP_NS {
            names.swept_ns = now_ns;
            names
                .names
                .retain(|_, used_ns| now_ns.saturating_sub(*used_ns) < WINDOW_NS);
        }
        if names.names.len() >= self.max {
            if sent {
                return admitted;
            }
            return Admitted {
                name: other(operation),
                overflowed: true,
            };
        }
        names.names.insert(operation.to_owned(), now_ns);
        admitted
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

/// The operation name of a request or call: see [`probe_common::operation`].
pub(super) fn operation(method: &[u8], pattern: &[u8], path: &[u8], keep_path: bool) -> String {
    let operation: Operation = probe_common::operation::name(method, pattern, path, keep_path);
    operation.as_str().to_owned()
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
        names.admit("shop", operation, false, now_ns).name
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
        assert_eq!(names.admit("bank", "GET:/b", false, 0).name, "GET:/b");
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
}
