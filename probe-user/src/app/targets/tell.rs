//! What is traced at the moment, for whoever asks.

use std::time::Duration;

use super::{Refusal, Target, Targets, binary::Binary};
use crate::{
    clock,
    instrument::Part,
    status::{self, Missing, Program, Refused, Tracing},
};

impl Targets {
    pub(super) fn tell(&mut self) -> Tracing {
        // What the kernel counts is as new as the rest.
        self.count_losses();
        let now_ns = clock::now_boot_ns();
        let mut targets: Vec<_> = self.targets.values().map(|target| told(target, now_ns)).collect();
        targets.sort_by(|one, other| (&one.service, one.pid).cmp(&(&other.service, other.pid)));
        let refusals = self.refused.values().flatten();
        let mut refused: Vec<Refused> = refusals
            .filter(|refusal| refusal.process.is_current())
            .map(|Refusal { process, reason }| Refused {
                pid: process.pid,
                exe: process.exe.to_string_lossy().into_owned(),
                reason: reason.clone(),
            })
            .collect();
        refused.sort_by_key(|refused| refused.pid);
        let programs = self.kernel.runs().into_iter().map(|runs| Program {
            name: runs.program,
            runs: runs.runs,
            run_ns: runs.run_ns,
        });
        Tracing {
            targets,
            refused,
            propagation: self.propagation_words.clone(),
            programs: programs.collect(),
            connections: self.kernel.enrolled(),
        }
    }
}

fn told(target: &Target, now_ns: u64) -> status::Target {
    let Target {
        process,
        place,
        pod,
        identity,
        binary,
        since_ns,
        enrolled,
    } = target;
    status::Target {
        pid: process.pid,
        exe: process.exe.to_string_lossy().into_owned(),
        service: identity.service.clone(),
        instance: identity.instance.clone(),
        language: "go".to_owned(),
        version: binary.go_version().to_owned(),
        unit: place.unit.clone(),
        container_id: place.container.clone(),
        namespace: pod.as_ref().map(|pod| pod.namespace.clone()),
        pod: pod.as_ref().map(|pod| pod.name.clone()),
        container: pod
            .as_ref()
            .and_then(|pod| Some(pod.container_of(place)?.name.clone())),
        workload: pod.as_ref().and_then(|pod| {
            let workload = pod.workload.as_ref()?;
            Some(format!("{}/{}", workload.kind, workload.name))
        }),
        traced_s: Duration::from_nanos(now_ns.saturating_sub(*since_ns)).as_secs(),
        parts: Part::ALL
            .into_iter()
            .filter(|part| binary.plan.has(*part))
            .map(|part| part.to_string())
            .collect(),
        hooks: binary.hooks(),
        missing: missing(binary),
        enrolled: enrolled.map(|enrolled| enrolled.sockets as u64),
        not_enrolled: enrolled.map(|enrolled| enrolled.refused as u64),
    }
}

/// What could not be placed, by the plan or by the kernel, as far as something is lost by it.
fn missing(binary: &Binary) -> Vec<Missing> {
    let by_plan = binary.plan.refusals.iter().filter_map(|refusal| {
        Some(Missing {
            program: refusal.program.to_owned(),
            symbol: refusal.symbol.to_owned(),
            reason: refusal.reason.to_string(),
            loss: refusal.loss()?,
        })
    });
    let by_kernel = binary.failed.iter().map(|failed| Missing {
        program: failed.program.to_owned(),
        symbol: failed.symbol.to_owned(),
        reason: crate::chain(failed),
        loss: "what this hook sees".to_owned(),
    });
    by_plan.chain(by_kernel).collect()
}
