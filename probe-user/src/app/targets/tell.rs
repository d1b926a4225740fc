//! What is traced at the moment, for whoever asks.

use super::{Refusal, Targets, binary::Binary, target::Target};
use crate::{
    discover::{
        pod::{Knowledge, Pods},
        process::Process,
        select::Meant,
    },
    instrument::Part,
    status::{self, Asked, Connection, Fate, Kubernetes, Missing, Program, Question, Refused, Tracing},
};

impl Targets {
    pub(super) fn tell(&mut self, question: Question) -> Tracing {
        // What the kernel counts is as new as the rest.
        self.count_losses();
        let mut targets: Vec<_> = self.targets.values().map(told).collect();
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
            configuration: self.reload.tell(),
            kubernetes: kubernetes(self.surroundings.pods()),
            targets,
            refused,
            propagation: self.propagation_words.clone(),
            programs: programs.collect(),
            connections: self.kernel.enrolled(),
            asked: question.pid.map(|pid| self.explain(pid)),
        }
    }

    /// What becomes of a process, and why.
    fn explain(&mut self, pid: u32) -> Asked {
        let process = match Process::read(pid) {
            Ok(Some(process)) => process,
            Ok(None) => {
                return Asked {
                    pid,
                    why: "there is no such process, or it runs no program".to_owned(),
                    ..Asked::default()
                };
            }
            Err(error) => {
                return Asked {
                    pid,
                    why: error.to_string(),
                    ..Asked::default()
                };
            }
        };
        self.surroundings.begin_look();
        let (meant, why) = self.selection.explain(&process, &mut self.surroundings);
        let (fate, why) = match (meant, self.targets.get(&pid)) {
            (_, Some(_)) => (Fate::Traced, why),
            (Meant::No, None) => (Fate::NotMeant, why),
            (Meant::Excluded, None) => (Fate::Excluded, why),
            (Meant::NotYet, None) => (Fate::Waits, why),
            (Meant::Yes(_), None) => match self.refused.get(&(pid, process.start_ticks)) {
                Some(Some(refusal)) => (Fate::Refused, format!("{why}, and {}", refusal.reason)),
                // Among what is meant by its kind, other programs are no news.
                Some(None) => (Fate::Refused, format!("{why}, and it is no Go program")),
                None => (Fate::Waits, why),
            },
        };
        let connections = match fate {
            Fate::Traced => self.connections(&process),
            Fate::NotThere | Fate::Waits | Fate::Refused | Fate::NotMeant | Fate::Excluded => Vec::new(),
        };
        Asked {
            pid,
            exe: Some(process.exe.to_string_lossy().into_owned()),
            fate,
            why,
            connections,
        }
    }

    fn connections(&mut self, process: &Process) -> Vec<Connection> {
        let mut connections: Vec<Connection> = self
            .kernel
            .connections(process)
            .into_iter()
            .map(|connection| Connection {
                local: connection.local.to_string(),
                peer: connection.peer.to_string(),
                gets_headers: connection.is_enrolled,
            })
            .collect();
        connections.sort_by(|one, other| (&one.peer, &one.local).cmp(&(&other.peer, &other.local)));
        connections
    }
}

/// Nothing where it is not asked.
fn kubernetes(pods: &Pods) -> Option<Kubernetes> {
    let knowledge = pods.knowledge();
    if knowledge == Knowledge::Off {
        return None;
    }
    let (watch, count) = pods.watch();
    let (error, error_s) = watch
        .error
        .map(|(error, at_ns)| (error, status::seconds_since(at_ns)))
        .unzip();
    Some(Kubernetes {
        address: watch.address,
        node: watch.node,
        pods: count,
        current: knowledge == Knowledge::Current,
        error,
        error_s,
    })
}

fn told(target: &Target) -> status::Target {
    let Target {
        process,
        place,
        pod,
        identity,
        binary,
        looked_ns: _,
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
        traced_s: status::seconds_since(*since_ns),
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
