//! Rules, ready to be asked, and the process they are asked about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use super::{SelectError, Surroundings, Wish};
use crate::{
    clock,
    config::{self, Condition, Language, Pair, Select, Verdict},
    discover::{
        container::Place,
        go,
        pod::{Knowledge, Pod},
        process::Process,
    },
};

/// How old a process in a pod is when it is looked at without its pod: a pod is known before it starts, so who is as old
/// has one that nobody knows.
const POD_KNOWN_AFTER: Duration = Duration::from_secs(10);

/// A rule, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) verdict: Verdict,
    tests: Vec<Test>,
    source: Source,
}

/// Where a rule comes from.
#[derive(Debug)]
enum Source {
    File(config::Place),
    /// A setting of this name that selects.
    Key(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(place) => write!(formatter, "the rule in {place}"),
            Self::Key(key) => write!(formatter, "`{key}`"),
        }
    }
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

/// All rules, in their order. What else selects is one as well, behind them.
pub(super) fn all(select: &Select) -> Result<Vec<Rule>, SelectError> {
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
                source: Source::File(rule.place.clone()),
            })
        })
        .collect::<Result<Vec<_>, SelectError>>()?;
    let mut include = |key, test| {
        rules.push(Rule {
            verdict: Verdict::Include,
            tests: vec![test],
            source: Source::Key(key),
        });
    };
    if !select.exes.is_empty() {
        include("exe", Test::Exe(globs(&select.exes)?));
    }
    if !select.ports.is_empty() {
        include("port", Test::Port(select.ports.iter().copied().collect()));
    }
    if select.all_go {
        include("all_go", Test::Language(vec![Language::Go]));
    }
    Ok(rules)
}

impl Rule {
    pub(super) fn depends_on_ports(&self) -> bool {
        self.tests.iter().any(|test| matches!(test, Test::Port(_)))
    }

    /// Whether it asks what only Kubernetes knows.
    pub(super) fn asks_pods(&self) -> bool {
        let mut tests = self.tests.iter();
        tests.any(|test| match test {
            Test::Namespace(_)
            | Test::Workload(_)
            | Test::PodLabel(_)
            | Test::Annotation(_)
            | Test::Container(_) => true,
            Test::Exe(_) | Test::Port(_) | Test::Language(_) | Test::Unit(_) => false,
        })
    }

    /// Nothing if that hangs on the container, which is not known yet.
    pub(super) fn is_met_by(&self, subject: &mut Subject<'_>) -> Option<bool> {
        let asks_container = |test: &&Test| matches!(test, Test::Container(_));
        if !self.tests.iter().any(|test| asks_container(&test)) || !subject.waits_for_container() {
            return Some(self.tests.iter().all(|test| subject.meets(test)));
        }
        let mut others = self.tests.iter().filter(|test| !asks_container(test));
        others.any(|test| !subject.meets(test)).then_some(false)
    }

    /// What it does to a process that meets it, in words.
    pub(super) fn words(&self) -> String {
        let source = &self.source;
        match self.verdict {
            Verdict::Include => format!("{source} includes it"),
            Verdict::Exclude => format!("{source} excludes it"),
        }
    }

    pub(super) fn wish(&self) -> Wish {
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
pub(super) struct Subject<'a> {
    process: &'a Process,
    surroundings: &'a mut Surroundings,
    place: Option<Place>,
    pod: Option<Option<Arc<Pod>>>,
}

impl<'a> Subject<'a> {
    /// With the place of the process, where that is known.
    pub(super) fn new(
        process: &'a Process,
        place: Option<Place>,
        surroundings: &'a mut Surroundings,
    ) -> Self {
        Self {
            process,
            surroundings,
            place,
            pod: None,
        }
    }

    pub(super) fn place(&mut self) -> &Place {
        let pid = self.process.pid;
        self.place.get_or_insert_with(|| Place::of(pid))
    }

    pub(super) fn pod(&mut self) -> Option<Arc<Pod>> {
        if self.pod.is_none() {
            let pods = self.surroundings.pods.clone();
            self.pod = Some(pods.of(self.place()));
        }
        self.pod.clone().flatten()
    }

    pub(super) fn pods_are_known(&self) -> bool {
        self.surroundings.pods.knowledge() != Knowledge::Off
    }

    /// It was quicker than the news of its pod.
    pub(super) fn waits_for_pod(&mut self) -> bool {
        self.may_wait() && self.place().pod_uid.is_some() && self.pod().is_none()
    }

    /// It was quicker than the news of its container: the kubelet tells its id about a second after it has started it.
    pub(super) fn waits_for_container(&mut self) -> bool {
        let place = self.place().clone();
        self.may_wait()
            && place.container.is_some()
            && self.pod().is_some_and(|pod| pod.container_of(&place).is_none())
    }

    /// Where no news come, it is no use to wait for them.
    fn may_wait(&self) -> bool {
        self.surroundings.pods.knowledge() == Knowledge::Current
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
            Test::Port(ports) => self.surroundings.has_listened_on(self.process, ports),
            Test::Language(languages) => languages.iter().any(|language| match language {
                Language::Go => self.is_go(),
            }),
            Test::Unit(globs) => self.place().unit.as_deref().is_some_and(|unit| {
                let name = unit.strip_suffix(".service").unwrap_or(unit);
                globs.is_match(unit) || globs.is_match(name)
            }),
        }
    }

    pub(super) fn is_go(&mut self) -> bool {
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
