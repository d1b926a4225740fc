//! What a selection says of processes, in pods and outside.

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

/// As docs/configuration.md says: an API that is away stops tracing for nobody who did not ask for pods.
#[test]
fn what_its_pod_leaves_out_is_meant_until_the_pod_is_known() {
    let place = Place {
        pod_uid: Some("u1".to_owned()),
        ..Place::default()
    };
    let shop = vec![Condition::Namespace(vec!["shop".to_owned()])];
    let by_exe = Selection::new(&Select {
        rules: vec![rule(Verdict::Exclude, shop.clone())],
        exes: vec!["app".to_owned()],
        ..Select::default()
    })
    .unwrap();
    let by_pod = Selection::new(&Select {
        rules: vec![rule(Verdict::Include, shop)],
        ..Select::default()
    })
    .unwrap();
    let pods = Pods::default();
    pods.set_knowledge(Knowledge::Behind);
    let mut surroundings = Surroundings::new(pods.clone());
    let mut judge =
        |selection: &Selection| judged_in(place.clone(), selection, &process("/srv/app"), &mut surroundings);
    assert_eq!(judge(&by_exe), Meant::Yes(Wish::Named));
    assert_eq!(judge(&by_pod), Meant::No);
    pods.put(gateway());
    assert_eq!(judge(&by_exe), Meant::Excluded);
    assert_eq!(judge(&by_pod), Meant::Yes(Wish::Kind));
}
