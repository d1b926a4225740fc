//! What changes while the probe runs: pods, and the configuration. Processes are judged anew then.

use std::{mem, sync::Arc};

use tracing::info;

use super::{
    Targets,
    target::{self, End},
};
use crate::{
    app::supervisor,
    discover::{pod::Knowledge, select::Meant},
    naming::{self, Known},
};

impl Targets {
    /// Whether a process that starts later can be meant.
    pub(super) fn is_open(&self) -> bool {
        let by_annotation = self.surroundings.pods().knowledge() != Knowledge::Off;
        self.selection.is_open(by_annotation)
    }

    pub(super) fn look_at_late_ones(&mut self) {
        for pid in mem::take(&mut self.later) {
            self.log_look(pid);
        }
    }

    /// What was said of processes may be wrong by now, and their names too.
    pub(super) fn on_pods(&mut self) {
        self.surroundings.begin_look();
        self.reselect(Meant::ends);
        self.rename();
        self.look_at_late_ones();
        // The others are looked at when they all are: a pod changes several times while it starts.
        self.is_changed = true;
    }

    /// Lets go what is meant no more.
    pub(super) fn reselect(&mut self, goes: impl Fn(Meant) -> bool) {
        let gone: Vec<u32> = self
            .targets
            .values()
            .filter(|target| goes(self.selection.judge(&target.process, &mut self.surroundings)))
            .map(|target| target.process.pid)
            .collect();
        for pid in gone {
            self.let_go(pid, End::NotMeant);
        }
    }

    /// Traces those under their pods' names that were traced before their pods were known, or their containers. Who has
    /// the right name all the same has its instance tell more.
    pub(super) fn rename(&mut self) {
        let mut misnamed = Vec::new();
        for target in self.targets.values_mut() {
            let was_known = target
                .pod
                .as_ref()
                .map(|pod| pod.container_of(&target.place).is_some());
            let pod = self.surroundings.pods().of(&target.place);
            let is_known = pod.as_ref().map(|pod| pod.container_of(&target.place).is_some());
            // Nothing, a pod, a container in it: in this order.
            if is_known <= was_known {
                continue;
            }
            let known = Known {
                process: &target.process,
                place: &target.place,
                pod: pod.as_deref(),
            };
            if naming::name_target(known, &self.config) == *target.identity {
                if let Some(registry) = &self.registry {
                    registry.amend(&target.identity, target::properties(known, &self.config));
                }
                target.pod = pod;
            } else {
                misnamed.push(target.process.pid);
            }
        }
        for pid in misnamed {
            self.let_go(pid, End::Renamed);
            self.later.insert(pid);
        }
    }

    /// Reads the configuration file anew, however that ends.
    pub(super) fn reload(&mut self) {
        supervisor::reloading();
        self.take_over();
        supervisor::reloaded();
    }

    /// Takes over what the configuration says now of selection and names. Who stays selected is not touched.
    fn take_over(&mut self) {
        let Some(now) = self.reload.read(&self.config) else {
            return;
        };
        if let Err(error) = self.selection.take_over(&now.select) {
            self.reload.fail(crate::chain(&error));
            return;
        }
        self.config = Arc::new(now);
        self.refused.clear();
        self.surroundings.begin_look();
        self.reselect(Meant::ends);
        self.is_changed = true;
        info!(
            targets = self.targets.len(),
            "Configuration taken over; who is meant now is looked for"
        );
    }
}
