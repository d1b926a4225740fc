//! What systemd is told, where it asks for it. The library reads of that in the environment, `NOTIFY_SOCKET` and
//! `WATCHDOG_USEC`, and does nothing without.

use std::sync::Arc;

use sd_notify::NotifyState;
use tracing::{debug, error};

use super::targets::Ready;
use crate::{telemetry::Telemetry, words::counted};

/// All that was there at the start is attached.
pub(super) fn ready(ready: &Ready) {
    let processes = counted(ready.targets as u64, ["process", "processes"]);
    // Not how many there are now, which nobody would mend.
    let status = format!("Traced {processes} when it was ready; `skyprobe status` says how it is now");
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The configuration file is read anew. What traces goes on meanwhile.
pub(super) fn reloading() {
    // systemd wants to know since when, to tell an answer from an older one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "systemd is not told of a reload"),
    }
}

/// It has been read, or was found wanting, which the log says.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// Nothing new is traced any more.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("Taking the hooks out")]);
}

/// Says twice in each of the watchdog's times that the probe is well, as long as it is. Ends at once where nobody
/// watches, else never.
pub(super) async fn watch(telemetry: Arc<Telemetry>) {
    let Some(longest) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut was_well = true;
    loop {
        let health = telemetry.vitals().health();
        match &health {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(unwell) if was_well => {
                let status = unwell.to_string();
                error!(
                    status,
                    "The watchdog is not told that all is well, and may start the probe anew"
                );
                tell(&[NotifyState::Status(&status)]);
            }
            Err(_) => {}
        }
        was_well = health.is_ok();
        tokio::time::sleep(longest / 2).await;
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd cannot be told how the probe is");
    }
}
