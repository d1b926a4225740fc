//! How OAP is reached: what the exporter's connection says of itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The link to OAP, where one is exported to.
#[derive(Debug, Default)]
pub struct Link(Mutex<Option<LinkState>>);

/// The same at one moment.
#[derive(Clone, Debug, Default)]
pub struct LinkState {
    /// Where OAP may be.
    pub addresses: Vec<String>,
    /// Where it is, and since when.
    pub connected: Option<(Arc<str>, Instant)>,
    /// It has been reached at least once.
    pub was_reached: bool,
    /// It takes nothing from us: the token is not the right one.
    pub refused: bool,
    /// What failed last, and when.
    pub error: Option<(String, Instant)>,
}

impl Link {
    /// OAP is exported to, at one of these addresses.
    pub fn expect(&self, addresses: Vec<String>) {
        *self.lock() = Some(LinkState {
            addresses,
            ..LinkState::default()
        });
    }

    pub fn connected(&self, address: &Arc<str>) {
        self.note(|link| {
            link.connected = Some((Arc::clone(address), Instant::now()));
            link.was_reached = true;
        });
    }

    /// The connection is not used any more.
    pub fn left(&self) {
        self.note(|link| link.connected = None);
    }

    pub fn failed(&self, address: &str, error: &str) {
        self.note(|link| link.error = Some((format!("{address}: {error}"), Instant::now())));
    }

    pub fn refused(&self, is_refused: bool) {
        self.note(|link| link.refused = is_refused);
    }

    /// Nothing where no OAP is exported to.
    pub fn state(&self) -> Option<LinkState> {
        self.lock().clone()
    }

    fn note(&self, change: impl FnOnce(&mut LinkState)) {
        if let Some(link) = &mut *self.lock() {
            change(link);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<LinkState>> {
        // Nobody panics while holding it, and if so what it says is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkState {
    /// Why nothing could be reported so far.
    pub fn fault(&self) -> Option<String> {
        if self.refused {
            return Some("OAP refuses the authentication token".to_owned());
        }
        if self.was_reached {
            return None;
        }
        Some(match &self.error {
            Some((error, _)) => format!("OAP was not reached yet: {error}"),
            None => format!("OAP was not reached yet at {}", self.addresses.join(", ")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_reached_it_is_no_fault_to_lose_it_but_a_refusal_is() {
        let link = Link::default();
        link.failed("a:1", "nobody exports to an OAP");
        assert!(link.state().is_none());
        link.expect(vec!["a:1".into(), "b:2".into()]);
        let fault = || link.state().unwrap().fault();
        assert_eq!(fault().unwrap(), "OAP was not reached yet at a:1, b:2");
        link.failed("a:1", "connection refused");
        assert_eq!(
            fault().unwrap(),
            "OAP was not reached yet: a:1: connection refused"
        );
        link.connected(&"b:2".into());
        assert_eq!(fault(), None);
        link.left();
        assert_eq!(fault(), None);
        assert!(link.state().unwrap().connected.is_none());
        link.refused(true);
        assert!(fault().unwrap().contains("token"));
        link.refused(false);
        assert_eq!(fault(), None);
    }
}
