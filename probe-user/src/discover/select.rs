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
mod tests {
    use std::{
        collections::BTreeMap,
        net::TcpListener,
        path::{Path, PathBuf},
    };

    use super::*;
    use crate::{
        config::{self, Condition, Language, Pair},
        discover::{
            container::Place,
            pod::{Container, Knowledge, Pod, Workload},
        },
    };

    fn judged(selection: &Selection, process: &Process) -> Meant {
        selection.judge(process, &mut Surroundings::default())
    }

    fn process(exe: &str) -> Process {
        Process {
            pid: 1,
            start_ticks: 5,
            exe: PathBuf::from(exe),
            exe_id: FileId { device: 1, inode: 1 },
        }
    }

    fn rule(verdict: Verdict, conditions: Vec<Condition>) -> config::Rule {
        config::Rule {
            verdict,
            conditions,
            place: config::Place::new(Path::new("skyprobe.yaml"), Some(3)),
        }
    }

    fn by_exe(glob: &str, exe: &str) -> bool {
        let select = Select {
            exes: vec![glob.to_owned()],
            ..Select::default()
        };
        let selection = Selection::new(&select).unwrap();
        judged(&selection, &process(exe)) == Meant::Yes(Wish::Named)
    }

    #[test]
    fn a_glob_meets_the_whole_path_or_the_base_name() {
        assert!(by_exe("gateway", "/srv/shop/gateway"));
        assert!(by_exe("gate*", "/srv/shop/gateway"));
        assert!(by_exe("/srv/*", "/srv/shop/gateway"));
        assert!(by_exe("/srv/{shop,bank}/g?teway", "/srv/shop/gateway"));
        assert!(!by_exe("gateway", "/srv/gateway/other"));
        assert!(!by_exe("/srv", "/srv/shop/gateway"));
        assert!(!by_exe("shop/gateway", "/srv/shop/gateway"));
    }

    #[test]
    fn a_pid_means_the_process_that_had_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let select = Select {
            pids: vec![child.id()],
            ..Select::default()
        };
        let selection = Selection::new(&select).unwrap();
        assert!(!selection.is_open(false));
        let mut now = Process::read(child.id()).unwrap().unwrap();
        assert_eq!(judged(&selection, &now), Meant::Yes(Wish::Pid));
        now.start_ticks += 1;
        assert_eq!(judged(&selection, &now), Meant::No);
        child.kill().unwrap();
        child.wait().unwrap();
        let error = Selection::new(&select).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("there is no process {}", child.id())),
            "{error}"
        );
    }

    #[test]
    fn we_are_never_meant() {
        let ourselves = Process::read(std::process::id()).unwrap().unwrap();
        let everything = Select {
            exes: vec!["*".to_owned()],
            all_go: true,
            ..Select::default()
        };
        let selection = Selection::new(&everything).unwrap();
        assert_eq!(judged(&selection, &ourselves), Meant::No);
        let select = Select {
            pids: vec![std::process::id()],
            ..Select::default()
        };
        assert!(matches!(
            Selection::new(&select),
            Err(SelectError::Ourselves { .. })
        ));
    }

    #[test]
    fn a_port_may_appear_later() {
        // A child inherits the listening socket, so it counts as a listener once it is there.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::read(child.id()).unwrap().unwrap();
        let select = |port| {
            Selection::new(&Select {
                ports: vec![port],
                ..Select::default()
            })
            .unwrap()
        };
        assert_eq!(judged(&select(port), &process), Meant::Yes(Wish::Named));
        assert_eq!(judged(&select(1), &process), Meant::No);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn who_stops_listening_still_counts_and_who_runs_another_program_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = BTreeSet::from([listener.local_addr().unwrap().port()]);
        let mut process = Process::read(std::process::id()).unwrap().unwrap();
        let mut surroundings = Surroundings::default();
        assert!(surroundings.has_listened_on(&process, &ports));
        drop(listener);
        surroundings.begin_look();
        assert!(surroundings.has_listened_on(&process, &ports));
        assert!(!surroundings.has_listened_on(&process, &BTreeSet::from([1])));
        process.exe_id.inode += 1;
        assert!(!surroundings.has_listened_on(&process, &ports));
        process.exe_id.inode -= 1;
        surroundings.retain(|_| false);
        assert!(!surroundings.has_listened_on(&process, &ports));
    }

    /// This test is no Go program, and the process that is asked about runs it.
    #[test]
    fn rules_are_asked_in_their_order_and_before_the_rest() {
        let exe = |glob: &str| Condition::Exe(vec![glob.to_owned()]);
        let go = Condition::Language(vec![Language::Go]);
        let selection = Selection::new(&Select {
            rules: vec![
                rule(Verdict::Exclude, vec![exe("/srv/shop/debug*")]),
                rule(Verdict::Include, vec![go.clone(), exe("/srv/*")]),
                rule(Verdict::Include, vec![exe("/srv/shop/*")]),
                rule(Verdict::Exclude, vec![exe("/opt/*")]),
            ],
            exes: vec!["worker".to_owned()],
            ..Select::default()
        })
        .unwrap();
        let judge = |exe| judged(&selection, &process(exe));
        assert_eq!(judge("/srv/shop/debugger"), Meant::Excluded);
        assert_eq!(judge("/srv/shop/gateway"), Meant::Yes(Wish::Named));
        assert_eq!(judge("/srv/bank/gateway"), Meant::No);
        assert_eq!(judge("/usr/bin/worker"), Meant::Yes(Wish::Named));
        assert_eq!(judge("/opt/worker"), Meant::Excluded);
        assert!(!selection.depends_on_ports());
        assert!(selection.is_open(false));
    }

    /// The process is this test's own child, put into a pod by what the kernel says of its group: the rest is asked
    /// by container.
    fn in_pod(select: &Select, pod: Pod) -> Meant {
        let place = Place {
            container: Some("c1".to_owned()),
            ..Place::default()
        };
        let pods = Pods::default();
        pods.set_knowledge(Knowledge::Current);
        pods.put(pod);
        let mut surroundings = Surroundings::new(pods);
        let selection = Selection::new(select).unwrap();
        judged_in(place, &selection, &process("/srv/app"), &mut surroundings)
    }

    fn judged_in(
        place: Place,
        selection: &Selection,
        process: &Process,
        surroundings: &mut Surroundings,
    ) -> Meant {
        let mut subject = Subject::new(process, Some(place), surroundings);
        selection.decide(process, &mut subject).meant()
    }

    fn gateway() -> Pod {
        Pod {
            uid: "u1".to_owned(),
            name: "gateway-6d5f-x".to_owned(),
            namespace: "shop".to_owned(),
            node: "n1".to_owned(),
            labels: BTreeMap::from([("tier".to_owned(), "web-1".to_owned())]),
            annotations: BTreeMap::new(),
            workload: Some(Workload {
                kind: "Deployment".to_owned(),
                name: "gateway".to_owned(),
            }),
            containers: vec![
                Container {
                    name: "app".to_owned(),
                    image: "i".to_owned(),
                    id: Some("c1".to_owned()),
                },
                Container {
                    name: "sidecar".to_owned(),
                    image: "i".to_owned(),
                    id: Some("c2".to_owned()),
                },
            ],
        }
    }

    #[test]
    fn what_a_pod_is_decides() {
        let texts = |text: &str| vec![text.to_owned()];
        let label = |value: Option<&str>| {
            Condition::PodLabel(vec![Pair {
                key: "tier".to_owned(),
                value: value.map(str::to_owned),
            }])
        };
        for (condition, is_met) in [
            (Condition::Namespace(texts("sh*")), true),
            (Condition::Namespace(texts("bank")), false),
            (Condition::Workload(texts("gate*")), true),
            (Condition::Workload(texts("Deployment/gateway")), true),
            (Condition::Workload(texts("DaemonSet/*")), false),
            (label(None), true),
            (label(Some("web-*")), true),
            (label(Some("web")), false),
            (
                Condition::Annotation(vec![Pair {
                    key: "tier".to_owned(),
                    value: None,
                }]),
                false,
            ),
            (Condition::Container(texts("app")), true),
            (Condition::Container(texts("sidecar")), false),
            (Condition::Unit(texts("*")), false),
        ] {
            let select = Select {
                rules: vec![rule(Verdict::Include, vec![condition.clone()])],
                ..Select::default()
            };
            let meant = if is_met { Meant::Yes(Wish::Kind) } else { Meant::No };
            assert_eq!(in_pod(&select, gateway()), meant, "{condition:?}");
        }
    }

    #[test]
    fn it_says_what_decided() {
        let exe = |glob: &str| Condition::Exe(vec![glob.to_owned()]);
        let selection = Selection::new(&Select {
            rules: vec![
                rule(Verdict::Exclude, vec![exe("debugger")]),
                rule(
                    Verdict::Include,
                    vec![Condition::Namespace(vec!["shop".to_owned()])],
                ),
            ],
            exes: vec!["gateway".to_owned()],
            ..Select::default()
        })
        .unwrap();
        let why = |process: &Process| selection.explain(process, &mut Surroundings::default());
        assert_eq!(
            why(&process("/srv/debugger")),
            (
                Meant::Excluded,
                "the rule in skyprobe.yaml:3 excludes it".to_owned()
            )
        );
        assert_eq!(
            why(&process("/srv/gateway")),
            (Meant::Yes(Wish::Named), "`exe` includes it".to_owned())
        );
        let ourselves = Process::read(std::process::id()).unwrap().unwrap();
        assert_eq!(why(&ourselves), (Meant::No, "it is skyprobe itself".to_owned()));
        let other = process("/srv/other");
        assert_eq!(
            why(&other),
            (
                Meant::No,
                "nothing that selects fits it, and it is no Go program".to_owned()
            )
        );
        let pods = Pods::default();
        pods.set_knowledge(Knowledge::Current);
        let annotations = BTreeMap::from([(TRACE_ANNOTATION.to_owned(), "false".to_owned())]);
        pods.put(Pod {
            annotations,
            ..gateway()
        });
        let mut surroundings = Surroundings::new(pods);
        let place = Place {
            container: Some("c1".to_owned()),
            ..Place::default()
        };
        let mut subject = Subject::new(&other, Some(place), &mut surroundings);
        let cause = selection.decide(&other, &mut subject);
        assert_eq!(
            selection.words(&cause, &mut subject),
            "the annotation skyprobe.io/trace of its pod shop/gateway-6d5f-x says false"
        );
    }

    #[test]
    fn a_pods_annotation_comes_before_the_rules() {
        let with = |value: &str| {
            let annotations = BTreeMap::from([(TRACE_ANNOTATION.to_owned(), value.to_owned())]);
            Pod {
                annotations,
                ..gateway()
            }
        };
        let rules = |verdict| Select {
            rules: vec![rule(verdict, vec![Condition::Namespace(vec!["shop".to_owned()])])],
            ..Select::default()
        };
        assert_eq!(in_pod(&rules(Verdict::Include), with("false")), Meant::Excluded);
        assert_eq!(
            in_pod(&rules(Verdict::Exclude), with("true")),
            Meant::Yes(Wish::Kind)
        );
        // What is neither is nothing.
        assert_eq!(
            in_pod(&rules(Verdict::Include), with("maybe")),
            Meant::Yes(Wish::Kind)
        );
        assert_eq!(in_pod(&rules(Verdict::Exclude), with("")), Meant::Excluded);
    }

    #[test]
    fn a_young_process_waits_for_its_pod() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let young = Process::read(child.id()).unwrap().unwrap();
        let place = Place {
            pod_uid: Some("u1".to_owned()),
            ..Place::default()
        };
        let selection = Selection::new(&Select {
            exes: vec!["*".to_owned()],
            ..Select::default()
        })
        .unwrap();
        let pods = Pods::default();
        let mut surroundings = Surroundings::new(pods.clone());
        let mut judge = |process: &Process| judged_in(place.clone(), &selection, process, &mut surroundings);
        assert_eq!(judge(&young), Meant::Yes(Wish::Named));
        pods.set_knowledge(Knowledge::Behind);
        assert_eq!(judge(&young), Meant::Yes(Wish::Named));
        pods.set_knowledge(Knowledge::Current);
        assert_eq!(judge(&young), Meant::NotYet);
        assert_eq!(judge(&process("/srv/old")), Meant::Yes(Wish::Named));
        pods.put(gateway());
        assert_eq!(judge(&young), Meant::Yes(Wish::Named));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_young_process_waits_for_its_container_where_a_rule_asks() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let young = Process::read(child.id()).unwrap().unwrap();
        let place = Place {
            pod_uid: Some("u1".to_owned()),
            container: Some("c2".to_owned()),
            ..Place::default()
        };
        let texts = |text: &str| vec![text.to_owned()];
        let selection = |namespace: &str| {
            Selection::new(&Select {
                rules: vec![
                    rule(
                        Verdict::Exclude,
                        vec![
                            Condition::Namespace(texts(namespace)),
                            Condition::Container(texts("sidecar")),
                        ],
                    ),
                    rule(Verdict::Include, vec![Condition::Namespace(texts("shop"))]),
                ],
                ..Select::default()
            })
            .unwrap()
        };
        let pods = Pods::default();
        let mut surroundings = Surroundings::new(pods.clone());
        let mut judge = |selection: &Selection, process: &Process| {
            judged_in(place.clone(), selection, process, &mut surroundings)
        };
        let (asks, asks_others) = (selection("shop"), selection("bank"));
        let mut pod = gateway();
        for container in &mut pod.containers {
            container.id = None;
        }
        pods.set_knowledge(Knowledge::Current);
        pods.put(pod);
        assert_eq!(judge(&asks, &young), Meant::NotYet);
        assert_eq!(judge(&asks_others, &young), Meant::Yes(Wish::Kind));
        assert_eq!(judge(&asks, &process("/srv/old")), Meant::Yes(Wish::Kind));
        pods.set_knowledge(Knowledge::Behind);
        assert_eq!(judge(&asks, &young), Meant::Yes(Wish::Kind));
        pods.set_knowledge(Knowledge::Current);
        pods.put(gateway());
        assert_eq!(judge(&asks, &young), Meant::Excluded);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
