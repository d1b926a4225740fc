//! Instances of services: what they are, and that they live.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::v3::{InstancePingPkg, InstanceProperties, KeyStringValuePair};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Request, Status};
use tracing::{debug, error, warn};

use super::Settings;
use super::connection::{Answer, Connection, Live, told};
use crate::telemetry::Repeats;
use crate::trace::segment::Identity;
use crate::version::{BUILD, VERSION};

/// The layer OAP files traced services under.
const LAYER: &str = "GENERAL";

/// Every so many heartbeats the properties are told again: an OAP that was restarted may have forgotten them.
const BEATS_PER_PROPERTIES: u32 = 10;

/// What an instance tells about itself. A key may stand more than once (`ipv4`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(Vec<(Cow<'static, str>, String)>);

impl Properties {
    /// Of the process `pid`, as far as `/proc` tells. `language` is one of OAP's names, such as `go`.
    pub fn of_process(pid: u32, language: &'static str) -> Self {
        let read = |path: String| fs::read_to_string(path).ok();
        let line = |path: &str| read(path.to_owned()).map(|text| text.trim().to_owned());
        let mut properties = Self::default();
        if let Some(name) = line("/proc/sys/kernel/ostype") {
            properties.push("OS Name", name);
        }
        properties.push("Process No.", pid.to_string());
        properties.push("language", language.to_owned());
        // Of the process's own network namespace.
        for address in read(format!("/proc/{pid}/net/fib_trie"))
            .as_deref()
            .map(local_ipv4s)
            .unwrap_or_default()
        {
            properties.push("ipv4", address);
        }
        if let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) {
            properties.push("exe", exe.to_string_lossy().into_owned());
        }
        properties.push("agent.name", "skyprobe".to_owned());
        properties.push("agent.version", VERSION.to_owned());
        properties.push("agent.build", BUILD.to_owned());
        properties
    }

    /// Adds one more.
    pub fn push(&mut self, key: impl Into<Cow<'static, str>>, value: String) {
        self.0.push((key.into(), value));
    }
}

/// The host's addresses in the kernel's routing table, loopback left out: an address stands on its own line, before
/// the line that says it is local.
fn local_ipv4s(fib_trie: &str) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    let mut last = "";
    for line in fib_trie.lines() {
        if let Some((_, address)) = line.split_once("-- ") {
            last = address.trim();
        } else if line.trim_start().starts_with("/32 host LOCAL")
            && !last.starts_with("127.")
            // The table is listed once as a whole and once for local addresses.
            && !addresses.iter().any(|address| address == last)
        {
            addresses.push(last.to_owned());
        }
    }
    addresses
}

/// The instances that are alive. Whoever finds and loses targets tells it; the heartbeat does the rest.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    instances: Mutex<HashMap<Arc<Identity>, Instance>>,
    come: Notify,
}

#[derive(Debug)]
struct Instance {
    properties: Properties,
    /// Processes that report under this name; mostly one.
    processes: u32,
    /// The connection the properties were told on, and the heartbeats since.
    told: Option<(u64, u32)>,
}

impl Registry {
    /// An instance has come. Its properties are told at once.
    pub fn register(&self, identity: Arc<Identity>, properties: Properties) {
        let mut instances = self.instances();
        let instance = instances.entry(identity).or_insert(Instance {
            properties: Properties::default(),
            processes: 0,
            told: None,
        });
        instance.processes += 1;
        if instance.properties != properties {
            instance.properties = properties;
            instance.told = None;
        }
        drop(instances);
        self.shared.come.notify_one();
    }

    /// More is known of an instance than when it came.
    pub fn amend(&self, identity: &Identity, properties: Properties) {
        if let Some(instance) = self.instances().get_mut(identity)
            && instance.properties != properties
        {
            instance.properties = properties;
            instance.told = None;
            self.shared.come.notify_one();
        }
    }

    /// An instance is gone. OAP finds out by its silence.
    pub fn unregister(&self, identity: &Identity) {
        let mut instances = self.instances();
        if let Some(instance) = instances.get_mut(identity) {
            instance.processes -= 1;
            if instance.processes == 0 {
                instances.remove(identity);
            }
        }
    }

    fn instances(&self) -> MutexGuard<'_, HashMap<Arc<Identity>, Instance>> {
        // Nobody panics while holding it, and if so the map is still whole.
        self.shared
            .instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said on the connection `generation`: to all, or only to those who wait for their properties to
    /// be told.
    fn due(&self, generation: u64, all: bool) -> Vec<(Arc<Identity>, Say)> {
        let mut due = Vec::new();
        for (identity, instance) in &mut *self.instances() {
            match &mut instance.told {
                Some((told, beats)) if *told == generation && *beats < BEATS_PER_PROPERTIES => {
                    if all {
                        *beats += 1;
                        due.push((Arc::clone(identity), Say::Alive));
                    }
                }
                Some(_) | None => {
                    due.push((Arc::clone(identity), Say::Properties(instance.properties.clone())));
                }
            }
        }
        due
    }

    fn heard(&self, identity: &Identity, generation: u64) {
        if let Some(instance) = self.instances().get_mut(identity) {
            instance.told = Some((generation, 0));
        }
    }
}

enum Say {
    /// And that it is alive.
    Properties(Properties),
    Alive,
}

/// Tells OAP of the instances in `registry` until `closing` ends.
pub(super) async fn run(
    registry: Registry,
    connection: Arc<Connection>,
    settings: Settings,
    closing: impl Future<Output = ()>,
) {
    let heartbeat = Heartbeat {
        registry,
        connection,
        settings,
        repeats: Repeats::default(),
        without: None,
    };
    tokio::select! {
        () = heartbeat.run() => {}
        () = closing => {}
    }
}

struct Heartbeat {
    registry: Registry,
    connection: Arc<Connection>,
    settings: Settings,
    repeats: Repeats<&'static str>,
    /// A connection to something that has no such service.
    without: Option<u64>,
}

impl Heartbeat {
    async fn run(mut self) {
        let mut beat = tokio::time::interval(self.settings.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        // Before anybody has something to tell: an address that is wrong is said at once.
        self.connection.live().await;
        loop {
            let all = tokio::select! {
                _ = beat.tick() => true,
                () = self.registry.shared.come.notified() => false,
            };
            // A beat that fails is tried again on the next connection, soon: a new one wants properties anyway.
            while self.beat(all).await.is_err() {
                failures += 1;
                tokio::time::sleep(self.settings.backoff.pause(failures)).await;
            }
            failures = 0;
        }
    }

    /// An error is one that may be over soon.
    async fn beat(&mut self, all: bool) -> Result<(), ()> {
        if self.registry.instances().is_empty() {
            return Ok(());
        }
        let live = self.connection.live().await;
        if self.without == Some(live.generation) {
            return Ok(());
        }
        for (identity, say) in self.registry.due(live.generation, all) {
            let Err(status) = self.say(&live, &identity, say).await else {
                self.connection.pleased().await;
                continue;
            };
            match Answer::of(status.code()) {
                Answer::Refused => self.connection.refused(&live).await,
                Answer::Unimplemented => {
                    self.without = Some(live.generation);
                    if let Some(count) = self.repeats.admit("unimplemented", Instant::now()) {
                        error!(server.addr = %live.address, count, "OAP has no management service, instances are not told");
                    }
                }
                Answer::TryAgain | Answer::Spare | Answer::Failed => {
                    if std::error::Error::source(&status).is_some() {
                        self.connection.broke(&live, &status).await;
                    } else {
                        self.connection.displeased(&live).await;
                    }
                    if let Some(count) = self.repeats.admit("failed", Instant::now()) {
                        let error = told(&status);
                        warn!(server.addr = %live.address, error, count, "Heartbeat not delivered");
                    }
                    return Err(());
                }
            }
            // Neither helps the other instances either.
            return Ok(());
        }
        Ok(())
    }

    async fn say(&self, live: &Live, identity: &Identity, say: Say) -> Result<(), Status> {
        /// A small message: OAP answers it at once or is in trouble.
        const DEADLINE: Duration = Duration::from_secs(10);
        let deadline = DEADLINE.min(self.settings.deadline);
        let mut client = live.management();
        let ping = || {
            let mut request = Request::new(InstancePingPkg {
                service: identity.service.clone(),
                service_instance: identity.instance.clone(),
                layer: LAYER.to_owned(),
            });
            request.set_timeout(deadline);
            request
        };
        match say {
            Say::Properties(Properties(properties)) => {
                let pair = |(key, value): (Cow<'static, str>, String)| KeyStringValuePair {
                    key: key.into_owned(),
                    value,
                };
                let properties = properties.into_iter().map(pair).collect();
                let message = InstanceProperties {
                    service: identity.service.clone(),
                    service_instance: identity.instance.clone(),
                    properties,
                    layer: LAYER.to_owned(),
                };
                let mut request = Request::new(message);
                request.set_timeout(deadline);
                client.report_instance_properties(request).await?;
                // Properties alone do not put a service on OAP's list, and the instance may be gone by the next heartbeat.
                client.keep_alive(ping()).await?;
                self.registry.heard(identity, live.generation);
                debug!(
                    service = identity.service,
                    instance = identity.instance,
                    "Instance told"
                );
            }
            Say::Alive => {
                client.keep_alive(ping()).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(instance: &str) -> Arc<Identity> {
        Arc::new(Identity {
            service: "service".into(),
            instance: instance.into(),
        })
    }

    fn due(registry: &Registry, generation: u64, all: bool) -> Vec<String> {
        let mut due: Vec<_> = registry
            .due(generation, all)
            .into_iter()
            .map(|(identity, say)| match say {
                Say::Properties(_) => format!("{} properties", identity.instance),
                Say::Alive => format!("{} alive", identity.instance),
            })
            .collect();
        due.sort();
        due
    }

    #[test]
    fn what_is_known_later_is_told_again() {
        let registry = Registry::default();
        registry.register(identity("a"), Properties::default());
        registry.heard(&identity("a"), 1);
        registry.amend(&identity("a"), Properties::default());
        assert_eq!(due(&registry, 1, false), [""; 0]);
        let mut more = Properties::default();
        more.push("container", "app".to_owned());
        registry.amend(&identity("a"), more.clone());
        assert_eq!(due(&registry, 1, false), ["a properties"]);
        // Nobody comes by it.
        registry.amend(&identity("b"), more);
        registry.unregister(&identity("a"));
        assert_eq!(due(&registry, 1, true), [""; 0]);
    }

    #[test]
    fn properties_come_first_then_heartbeats() {
        let registry = Registry::default();
        registry.register(identity("a"), Properties::default());
        assert_eq!(due(&registry, 1, false), ["a properties"]);
        assert_eq!(
            due(&registry, 1, true),
            ["a properties"],
            "they have not arrived yet"
        );
        registry.heard(&identity("a"), 1);
        assert_eq!(due(&registry, 1, false), [""; 0]);
        registry.register(identity("b"), Properties::default());
        assert_eq!(due(&registry, 1, false), ["b properties"]);
        registry.heard(&identity("b"), 1);
        assert_eq!(due(&registry, 1, true), ["a alive", "b alive"]);
        assert_eq!(
            due(&registry, 2, true),
            ["a properties", "b properties"],
            "a new connection"
        );
    }

    #[test]
    fn properties_are_told_again_now_and_then() {
        let registry = Registry::default();
        registry.register(identity("a"), Properties::default());
        registry.heard(&identity("a"), 1);
        for _ in 0..BEATS_PER_PROPERTIES {
            assert_eq!(due(&registry, 1, true), ["a alive"]);
        }
        assert_eq!(due(&registry, 1, true), ["a properties"]);
    }

    #[test]
    fn an_instance_lives_as_long_as_its_last_process() {
        let registry = Registry::default();
        registry.register(identity("a"), Properties::default());
        registry.register(identity("a"), Properties::default());
        registry.unregister(&identity("a"));
        assert_eq!(due(&registry, 1, true).len(), 1);
        registry.unregister(&identity("a"));
        registry.unregister(&identity("a"));
        assert_eq!(due(&registry, 1, true).len(), 0);
    }

    #[test]
    fn addresses_from_the_routing_table() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    +-- 10.1.0.0/24 2 0 2\n        |-- 10.1.0.0\n           /24 link UNICAST\n        \
                    |-- 10.1.0.7\n           /32 host LOCAL\n        |-- 10.1.0.255\n           \
                    /32 link BROADCAST\n     +-- 127.0.0.0/8 2 0 2\n           |-- 127.0.0.1\n              \
                    /32 host LOCAL\nLocal:\n        |-- 10.1.0.7\n           /32 host LOCAL\n";
        assert_eq!(local_ipv4s(trie), ["10.1.0.7"]);
        assert_eq!(local_ipv4s("nonsense"), [""; 0]);
    }

    #[test]
    fn this_process_has_properties() {
        let Properties(properties) = Properties::of_process(std::process::id(), "go");
        let value = |key| {
            properties
                .iter()
                .find(|(each, _)| *each == key)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(value("OS Name"), Some("Linux"));
        assert_eq!(
            value("Process No."),
            Some(std::process::id().to_string().as_str())
        );
        assert_eq!(value("language"), Some("go"));
        assert_eq!(value("agent.name"), Some("skyprobe"));
        assert!(value("exe").is_some_and(|exe| exe.starts_with('/')));
    }
}
