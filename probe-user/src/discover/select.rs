//! The user's selection: does a process meet it, and by what?

mod rule;

use std::collections::{BTreeSet, HashMap};

use self::rule::{Rule, Subject};
use super::{
    pod::Pods,
    process::{FileId, Listeners, Process, ProcessError},
};
use crate::config::{Select, Verdict};

/// Why a selection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    #[error("there is no process {pid}: `pgrep -l NAME` finds a program's id")]
    NoProcess { pid: u32 },
    #[error("process {pid} is skyprobe itself")]
    Ourselves { pid: u32 },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{glob:?} is not a glob")]
    Glob { glob: String, source: globset::Error },
}

/// By what a process was selected: the stronger the wish, the louder a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// For what it belongs to, or with every Go program: another program is no news.
    Kind,
    /// For its executable or its port.
    Named,
    /// This very process.
    Pid,
}

/// What the selection says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    Yes(Wish),
    No,
    /// A rule or its pod's annotation leaves it out, also if it is traced by now.
    Excluded,
    /// It runs in a pod that is not known yet, or in a container of which that is so and a rule asks.
    NotYet,
}

impl Meant {
    /// Whether who is traced is let go.
    pub fn ends(self) -> bool {
        matches!(self, Self::No | Self::Excluded)
    }
}

/// The annotation by which a pod asks to be traced, or not to be.
pub const TRACE_ANNOTATION: &str = "skyprobe.io/trace";

/// What looks at processes have at hand beside `/proc`.
#[derive(Debug, Default)]
pub struct Surroundings {
    pods: Pods,
    /// Of one look.
    listeners: Listeners,
    /// By process: whether this file is a Go program. To ask the file at each look would be what idling costs.
    go: HashMap<u32, (FileId, bool)>,
    /// By process: the ports it was once seen to listen on, and when it started and what it ran then.
    listened: HashMap<u32, (u64, FileId, BTreeSet<u16>)>,
}

impl Surroundings {
    pub fn new(pods: Pods) -> Self {
        Self {
            pods,
            ..Self::default()
        }
    }

    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Whether the name of the process's container will be known in a moment.
    pub fn waits_for_container(&mut self, process: &Process) -> bool {
        Subject::new(process, None, self).waits_for_container()
    }

    /// Another look begins: who listens is asked anew.
    pub fn begin_look(&mut self) {
        self.listeners = Listeners::default();
    }

    /// Forgets processes that are not `there`.
    pub fn retain(&mut self, there: impl Fn(u32) -> bool) {
        self.go.retain(|pid, _| there(*pid));
        self.listened.retain(|pid, _| there(*pid));
    }

    /// Whether `process` listens on one of `wanted`, or was seen to: a server that is told to end stops listening first,
    /// and answers what it has begun.
    fn has_listened_on(&mut self, process: &Process, wanted: &BTreeSet<u16>) -> bool {
        let is_it = |start: u64, file: FileId| start == process.start_ticks && file == process.exe_id;
        let known = self.listened.get(&process.pid);
        let known = known.filter(|(start, file, _)| is_it(*start, *file));
        if known.is_some_and(|(_, _, ports)| !ports.is_disjoint(wanted)) {
            return true;
        }
        let Some(port) = self.listeners.port_of(process, wanted) else {
            return false;
        };
        let fresh = (process.start_ticks, process.exe_id, BTreeSet::new());
        let seen = self.listened.entry(process.pid).or_insert_with(|| fresh.clone());
        if !is_it(seen.0, seen.1) {
            *seen = fresh;
        }
        seen.2.insert(port);
        true
    }
}

/// The selection, ready to be asked.
#[derive(Debug)]
pub struct Selection {
    /// As they were when tracing began: a later process with the same id is not meant.
    processes: Vec<Process>,
    rules: Vec<Rule>,
}

impl Selection {
    pub fn new(select: &Select) -> Result<Self, SelectError> {
        let mut processes = Vec::new();
        for &pid in &select.pids {
            if pid == std::process::id() {
                return Err(SelectError::Ourselves { pid });
            }
            processes.push(Process::read(pid)?.ok_or(SelectError::NoProcess { pid })?);
        }
        Ok(Self {
            processes,
            rules: rule::all(select)?,
        })
    }

    /// From here on these rules hold. The processes that were named by id are meant whatever they say.
    pub fn take_over(&mut self, select: &Select) -> Result<(), SelectError> {
        self.rules = rule::all(select)?;
        Ok(())
    }

    /// The processes named by id.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Whether a process that starts later can be meant, so that looking out for them makes sense. `by_annotation`: their
    /// pods' annotations count.
    pub fn is_open(&self, by_annotation: bool) -> bool {
        by_annotation || self.rules.iter().any(|rule| rule.verdict == Verdict::Include)
    }

    /// Whether what is said of a process may change when it listens.
    pub fn depends_on_ports(&self) -> bool {
        self.rules.iter().any(Rule::depends_on_ports)
    }

    /// Whether a rule asks what only Kubernetes knows.
    pub fn asks_pods(&self) -> bool {
        self.rules.iter().any(Rule::asks_pods)
    }

    /// Whether a rule leaves processes out.
    pub fn excludes(&self) -> bool {
        self.rules.iter().any(|rule| rule.verdict == Verdict::Exclude)
    }

    /// Whether `process` is meant, and by what. A program listens some time after its start, and its pod may change: a
    /// process that is not meant is asked about again.
    pub fn judge(&self, process: &Process, surroundings: &mut Surroundings) -> Meant {
        let mut subject = Subject::new(process, None, surroundings);
        self.decide(process, &mut subject).meant()
    }

    /// The same with its reason, a part of a sentence.
    pub fn explain(&self, process: &Process, surroundings: &mut Surroundings) -> (Meant, String) {
        let mut subject = Subject::new(process, None, surroundings);
        let cause = self.decide(process, &mut subject);
        (cause.meant(), self.words(&cause, &mut subject))
    }

    fn decide(&self, process: &Process, subject: &mut Subject<'_>) -> Cause<'_> {
        let is_it = |known: &Process| known.pid == process.pid && known.start_ticks == process.start_ticks;
        if self.processes.iter().any(is_it) {
            return Cause::Pid;
        }
        if process.pid == std::process::id() {
            return Cause::Ourselves;
        }
        if subject.pods_are_known() {
            if subject.waits_for_pod() {
                return Cause::NoPodYet;
            }
            let wanted = subject.pod().and_then(|pod| {
                let wanted = pod.annotations.get(TRACE_ANNOTATION)?;
                wanted.trim().parse().ok()
            });
            if let Some(wanted) = wanted {
                return Cause::Annotation(wanted);
            }
        }
        for rule in &self.rules {
            match rule.is_met_by(subject) {
                Some(true) => return Cause::Rule(rule),
                Some(false) => {}
                None => return Cause::NoContainerYet,
            }
        }
        Cause::Nothing
    }

    fn words(&self, cause: &Cause<'_>, subject: &mut Subject<'_>) -> String {
        match cause {
            Cause::Pid => "it was named by its id".to_owned(),
            Cause::Ourselves => "it is skyprobe itself".to_owned(),
            Cause::NoPodYet => "Kubernetes has not told of its pod yet".to_owned(),
            Cause::NoContainerYet => "Kubernetes has not told of its container yet".to_owned(),
            Cause::Annotation(wanted) => {
                let pod = subject.pod();
                let name = pod.map(|pod| format!(" {}/{}", pod.namespace, pod.name));
                format!(
                    "the annotation {TRACE_ANNOTATION} of its pod{} says {wanted}",
                    name.unwrap_or_default()
                )
            }
            Cause::Rule(rule) => rule.words(),
            Cause::Nothing => {
                let mut words = "nothing that selects fits it".to_owned();
                if !subject.is_go() {
                    words.push_str(", and it is no Go program");
                } else if self.asks_pods() {
                    // Why a rule about pods may not have been met, other than by its words.
                    if !subject.pods_are_known() {
                        words.push_str("; Kubernetes is not asked, so no rule about pods does");
                    } else if subject.place().pod_uid.is_none() && subject.pod().is_none() {
                        words.push_str("; it runs in no pod");
                    } else if subject.pod().is_none() {
                        words.push_str("; Kubernetes does not know its pod");
                    }
                }
                words
            }
        }
    }
}

/// What decided.
enum Cause<'a> {
    Pid,
    Ourselves,
    NoPodYet,
    NoContainerYet,
    Annotation(bool),
    Rule(&'a Rule),
    Nothing,
}

impl Cause<'_> {
    fn meant(&self) -> Meant {
        match self {
            Self::Pid => Meant::Yes(Wish::Pid),
            Self::Annotation(true) => Meant::Yes(Wish::Kind),
            Self::Annotation(false) => Meant::Excluded,
            Self::NoPodYet | Self::NoContainerYet => Meant::NotYet,
            Self::Rule(rule) => match rule.verdict {
                Verdict::Include => Meant::Yes(rule.wish()),
                Verdict::Exclude => Meant::Excluded,
            },
            Self::Ourselves | Self::Nothing => Meant::No,
        }
    }
}

#[cfg(test)]
mod tests;
