//! The user's selection: does a process meet it, and by what?

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use super::{
    container::Place,
    go,
    pod::{Knowledge, Pod, Pods},
    process::{FileId, Listeners, Process, ProcessError},
};
use crate::{
    clock,
    config::{Condition, Language, Pair, Select, Verdict},
};

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
    /// It runs in a pod that is not known yet.
    NotYet,
}

impl Meant {
    /// Whether who is traced is let go.
    pub fn ends(self) -> bool {
        matches!(self, Self::No | Self::Excluded)
    }
}

/// How old a process in a pod is when it is looked at without its pod: a pod is known before it starts, so who is as old
/// has one that nobody knows.
const POD_KNOWN_AFTER: Duration = Duration::from_secs(10);

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

    /// Another look begins: who listens is asked anew.
    pub fn begin_look(&mut self) {
        self.listeners = Listeners::default();
    }

    /// Forgets processes that are not `there`.
    pub fn retain(&mut self, there: impl Fn(u32) -> bool) {
        self.go.retain(|pid, _| there(*pid));
    }
}

/// The selection, ready to be asked.
#[derive(Debug)]
pub struct Selection {
    /// As they were when tracing began: a later process with the same id is not meant.
    processes: Vec<Process>,
    rules: Vec<Rule>,
}

/// A rule, ready to be asked.
#[derive(Debug)]
struct Rule {
    verdict: Verdict,
    tests: Vec<Test>,
}

/// A condition, ready to be asked.
#[derive(Debug)]
enum Test {
    Namespace(GlobSet),
    Workload(GlobSet),
    PodLabel(Vec<(String, Option<GlobMatcher>)>),
    Annotation(Vec<(String, Option<GlobMatcher>)>),
    Container(GlobSet),
    Exe(GlobSet),
    Port(BTreeSet<u16>),
    Language(Vec<Language>),
    Unit(GlobSet),
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
            rules: rules(select)?,
        })
    }

    /// From here on these rules hold. The processes that were named by id are meant whatever they say.
    pub fn take_over(&mut self, select: &Select) -> Result<(), SelectError> {
        self.rules = rules(select)?;
        Ok(())
    }

    /// The processes named by id.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Whether a process that starts later can be meant, so that looking out for them makes sense. `asks_pods`: their
    /// annotations count.
    pub fn is_open(&self, asks_pods: bool) -> bool {
        asks_pods || self.rules.iter().any(|rule| rule.verdict == Verdict::Include)
    }

    /// Whether what is said of a process may change when it listens.
    pub fn depends_on_ports(&self) -> bool {
        let mut tests = self.rules.iter().flat_map(|rule| &rule.tests);
        tests.any(|test| matches!(test, Test::Port(_)))
    }

    /// Whether a rule leaves processes out.
    pub fn excludes(&self) -> bool {
        self.rules.iter().any(|rule| rule.verdict == Verdict::Exclude)
    }

    /// Whether `process` is meant, and by what. A program listens some time after its start, and its pod may change: a
    /// process that is not meant is asked about again.
    pub fn judge(&self, process: &Process, surroundings: &mut Surroundings) -> Meant {
        self.judge_placed(process, None, surroundings)
    }

    /// With the place of the process, where that is known.
    fn judge_placed(
        &self,
        process: &Process,
        place: Option<Place>,
        surroundings: &mut Surroundings,
    ) -> Meant {
        let is_it = |known: &Process| known.pid == process.pid && known.start_ticks == process.start_ticks;
        if self.processes.iter().any(is_it) {
            return Meant::Yes(Wish::Pid);
        }
        if process.pid == std::process::id() {
            return Meant::No;
        }
        let mut subject = Subject {
            process,
            surroundings,
            place,
            pod: None,
        };
        if subject.surroundings.pods.knowledge() != Knowledge::Off {
            if subject.waits_for_pod() {
                return Meant::NotYet;
            }
            let wanted = subject.pod().and_then(|pod| {
                let wanted = pod.annotations.get(TRACE_ANNOTATION)?;
                wanted.trim().parse().ok()
            });
            match wanted {
                Some(true) => return Meant::Yes(Wish::Kind),
                Some(false) => return Meant::Excluded,
                None => {}
            }
        }
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.tests.iter().all(|test| subject.meets(test)));
        match rule {
            Some(rule) if rule.verdict == Verdict::Include => Meant::Yes(rule.wish()),
            Some(_) => Meant::Excluded,
            None => Meant::No,
        }
    }
}

fn rules(select: &Select) -> Result<Vec<Rule>, SelectError> {
    let mut rules = select
        .rules
        .iter()
        .map(|rule| {
            let mut tests = rule
                .conditions
                .iter()
                .map(Test::new)
                .collect::<Result<Vec<_>, _>>()?;
            tests.sort_by_key(Test::cost);
            Ok(Rule {
                verdict: rule.verdict,
                tests,
            })
        })
        .collect::<Result<Vec<_>, SelectError>>()?;
    // What else selects is a rule as well, behind those.
    let mut include = |test| {
        rules.push(Rule {
            verdict: Verdict::Include,
            tests: vec![test],
        });
    };
    if !select.exes.is_empty() {
        include(Test::Exe(globs(&select.exes)?));
    }
    if !select.ports.is_empty() {
        include(Test::Port(select.ports.iter().copied().collect()));
    }
    if select.all_go {
        include(Test::Language(vec![Language::Go]));
    }
    Ok(rules)
}

impl Rule {
    fn wish(&self) -> Wish {
        let names = |test: &Test| matches!(test, Test::Exe(_) | Test::Port(_));
        if self.tests.iter().any(names) {
            Wish::Named
        } else {
            Wish::Kind
        }
    }
}

impl Test {
    fn new(condition: &Condition) -> Result<Self, SelectError> {
        Ok(match condition {
            Condition::Namespace(texts) => Self::Namespace(globs(texts)?),
            Condition::Workload(texts) => Self::Workload(globs(texts)?),
            Condition::PodLabel(wanted) => Self::PodLabel(pairs(wanted)?),
            Condition::Annotation(wanted) => Self::Annotation(pairs(wanted)?),
            Condition::Container(texts) => Self::Container(globs(texts)?),
            Condition::Exe(texts) => Self::Exe(globs(texts)?),
            Condition::Port(ports) => Self::Port(ports.iter().copied().collect()),
            Condition::Language(languages) => Self::Language(languages.clone()),
            Condition::Unit(texts) => Self::Unit(globs(texts)?),
        })
    }

    /// What takes longest is asked last.
    fn cost(&self) -> u8 {
        match self {
            Self::Exe(_) => 0,
            Self::Namespace(_)
            | Self::Workload(_)
            | Self::PodLabel(_)
            | Self::Annotation(_)
            | Self::Container(_)
            | Self::Unit(_) => 1,
            Self::Port(_) => 2,
            Self::Language(_) => 3,
        }
    }
}

/// A process that is asked about. What is known of it is read when the first test wants it.
struct Subject<'a> {
    process: &'a Process,
    surroundings: &'a mut Surroundings,
    place: Option<Place>,
    pod: Option<Option<Arc<Pod>>>,
}

impl Subject<'_> {
    fn place(&mut self) -> &Place {
        let pid = self.process.pid;
        self.place.get_or_insert_with(|| Place::of(pid))
    }

    fn pod(&mut self) -> Option<Arc<Pod>> {
        if self.pod.is_none() {
            let pods = self.surroundings.pods.clone();
            self.pod = Some(pods.of(self.place()));
        }
        self.pod.clone().flatten()
    }

    /// It was quicker than the news of its pod. Where those do not come, it is no use to wait for them.
    fn waits_for_pod(&mut self) -> bool {
        self.surroundings.pods.knowledge() == Knowledge::Current
            && self.place().pod_uid.is_some()
            && self.pod().is_none()
            && self.process.age(Duration::from_nanos(clock::now_boot_ns())) < POD_KNOWN_AFTER
    }

    fn meets(&mut self, test: &Test) -> bool {
        match test {
            Test::Namespace(globs) => self.pod().is_some_and(|pod| globs.is_match(&pod.namespace)),
            Test::Workload(globs) => {
                self.pod()
                    .and_then(|pod| pod.workload.clone())
                    .is_some_and(|workload| {
                        globs.is_match(&workload.name)
                            || globs.is_match(format!("{}/{}", workload.kind, workload.name))
                    })
            }
            Test::PodLabel(wanted) => self.pod().is_some_and(|pod| meets_pair(&pod.labels, wanted)),
            Test::Annotation(wanted) => self.pod().is_some_and(|pod| meets_pair(&pod.annotations, wanted)),
            Test::Container(globs) => {
                let place = self.place().clone();
                let pod = self.pod();
                let container = pod.as_ref().and_then(|pod| pod.container_of(&place));
                container.is_some_and(|container| globs.is_match(&container.name))
            }
            Test::Exe(globs) => {
                let exe = &self.process.exe;
                globs.is_match(exe) || exe.file_name().is_some_and(|name| globs.is_match(name))
            }
            Test::Port(ports) => self.surroundings.listeners.listens_on(self.process, ports),
            Test::Language(languages) => languages.iter().any(|language| match language {
                Language::Go => self.is_go(),
            }),
            Test::Unit(globs) => self.place().unit.as_deref().is_some_and(|unit| {
                let name = unit.strip_suffix(".service").unwrap_or(unit);
                globs.is_match(unit) || globs.is_match(name)
            }),
        }
    }

    fn is_go(&mut self) -> bool {
        let Process { pid, exe_id, .. } = *self.process;
        match self.surroundings.go.get(&pid) {
            Some(&(file, is_go)) if file == exe_id => is_go,
            _ => {
                let is_go = go::is_go(&self.process.exe_path());
                self.surroundings.go.insert(pid, (exe_id, is_go));
                is_go
            }
        }
    }
}

fn meets_pair(there: &BTreeMap<String, String>, wanted: &[(String, Option<GlobMatcher>)]) -> bool {
    wanted.iter().any(|(key, glob)| {
        let value = there.get(key);
        value.is_some_and(|value| glob.as_ref().is_none_or(|glob| glob.is_match(value)))
    })
}

/// A `*` does not stop at slashes: `/srv/*` means all below.
fn glob(text: &str) -> Result<Glob, SelectError> {
    let built = GlobBuilder::new(text).literal_separator(false).build();
    built.map_err(|source| SelectError::Glob {
        glob: text.to_owned(),
        source,
    })
}

fn globs(texts: &[String]) -> Result<GlobSet, SelectError> {
    let mut set = GlobSetBuilder::new();
    for text in texts {
        set.add(glob(text)?);
    }
    set.build().map_err(|source| SelectError::Glob {
        glob: texts.join(" "),
        source,
    })
}

fn pairs(wanted: &[Pair]) -> Result<Vec<(String, Option<GlobMatcher>)>, SelectError> {
    let pair = |pair: &Pair| {
        let value = pair.value.as_deref().map(glob).transpose()?;
        Ok((pair.key.clone(), value.map(|glob| glob.compile_matcher())))
    };
    wanted.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, path::PathBuf};

    use super::*;
    use crate::{
        config,
        discover::pod::{Container, Workload},
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

    /// This test is no Go program, and the process that is asked about runs it.
    #[test]
    fn rules_are_asked_in_their_order_and_before_the_rest() {
        let rule = |verdict, conditions| config::Rule { verdict, conditions };
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
        selection.judge_placed(&process("/srv/app"), Some(place), &mut surroundings)
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
                rules: vec![config::Rule {
                    verdict: Verdict::Include,
                    conditions: vec![condition.clone()],
                }],
                ..Select::default()
            };
            let meant = if is_met { Meant::Yes(Wish::Kind) } else { Meant::No };
            assert_eq!(in_pod(&select, gateway()), meant, "{condition:?}");
        }
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
            rules: vec![config::Rule {
                verdict,
                conditions: vec![Condition::Namespace(vec!["shop".to_owned()])],
            }],
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
        let mut judge =
            |process: &Process| selection.judge_placed(process, Some(place.clone()), &mut surroundings);
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
}
