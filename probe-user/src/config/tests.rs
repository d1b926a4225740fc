//! Every key from every source.

mod documents;
mod wrong;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{key::Key, *};

fn call(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Invocation, ConfigError> {
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    let arguments = std::iter::once("skyprobe").chain(arguments.iter().copied());
    read(arguments.map(OsString::from), &|name| {
        environment.get(name).map(OsString::from)
    })
}

fn run(flags: &[&str], environment: &[(&str, &str)], file: Option<&str>) -> Result<Config, ConfigError> {
    let (_kept, path) = written(file.unwrap_or_default());
    let mut arguments = vec!["run"];
    if file.is_some() {
        arguments.extend(["--config", path.to_str().unwrap()]);
    }
    arguments.extend(flags);
    let Invocation::Run(config) = call(&arguments, environment)? else {
        panic!("not a run")
    };
    Ok(*config)
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("skyprobe.yaml");
    std::fs::File::create(&path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    (directory, path)
}

/// The one sentence a wrong call is answered with.
fn complaint(result: Result<impl std::fmt::Debug, ConfigError>) -> String {
    let sentence = result.unwrap_err().to_string();
    assert!(!sentence.contains('\n') && !sentence.is_empty(), "{sentence:?}");
    sentence
}

/// Whether it may stand on the command line, which everybody on the machine can read.
fn is_public(key: Key) -> bool {
    key != Key::Authentication
}

/// What a key's value is in the configuration, and three different ways to write it.
fn samples(key: Key) -> (fn(&Config) -> String, [&'static str; 3]) {
    match key {
        Key::Pid => (|config| format!("{:?}", config.select.pids), ["11", "12", "13"]),
        Key::Exe => (|config| format!("{:?}", config.select.exes), ["a*", "b*", "c*"]),
        Key::Port => (|config| format!("{:?}", config.select.ports), ["81", "82", "83"]),
        Key::AllGo => (
            |config| config.select.all_go.to_string(),
            ["true", "true", "false"],
        ),
        Key::Export => (
            |config| format!("{:?}", config.export),
            ["json", "text", "skywalking"],
        ),
        Key::Output => (
            |config| format!("{:?}", config.output),
            ["/tmp/a", "/tmp/b", "/tmp/c"],
        ),
        Key::Color => (
            |config| format!("{:?}", config.color),
            ["always", "never", "auto"],
        ),
        Key::Service => (|config| format!("{:?}", config.naming.service), ["a", "b", "c"]),
        Key::Instance => (|config| format!("{:?}", config.naming.instance), ["a", "b", "c"]),
        Key::Namespace => (|config| format!("{:?}", config.naming.namespace), ["a", "b", "c"]),
        Key::Cluster => (|config| format!("{:?}", config.naming.cluster), ["a", "b", "c"]),
        Key::ServiceTemplate => (
            |config| format!("{:?}", config.naming.service_template),
            ["{workload}", "{exe}-{pid}", "b{unit}"],
        ),
        Key::InstanceTemplate => (
            |config| format!("{:?}", config.naming.instance_template),
            ["{pod}", "{label:a}", "{annotation:b/c}"],
        ),
        Key::PropertyLabels => (
            |config| format!("{:?}", config.pods.property_labels),
            ["a", "b", "c"],
        ),
        Key::Kubernetes => (
            |config| format!("{:?}", config.pods.kubernetes),
            ["on", "auto", "off"],
        ),
        Key::Kubeconfig => (
            |config| format!("{:?}", config.pods.kubeconfig),
            ["/a", "/b", "/c"],
        ),
        Key::Node => (|config| format!("{:?}", config.pods.node), ["a", "b", "c"]),
        Key::Oap => (
            |config| format!("{:?}", config.oap.addresses),
            ["a:1", "b:2,c:3", "[::1]:4"],
        ),
        Key::Authentication => (
            |config| match &config.oap.authentication {
                Some(Authentication::Token(token)) => token.reveal().to_owned(),
                other => format!("{other:?}"),
            },
            ["a", "b", "c"],
        ),
        Key::AuthenticationFile => (
            |config| format!("{:?}", config.oap.authentication),
            ["/a", "/b", "/c"],
        ),
        Key::Tls => (
            |config| config.oap.tls.is_some().to_string(),
            ["true", "false", "true"],
        ),
        Key::TlsCaFile => (|config| format!("{:?}", config.oap.tls), ["/a", "/b", "/c"]),
        Key::TlsCertFile => (
            |config| {
                format!(
                    "{:?}",
                    config
                        .oap
                        .tls
                        .as_ref()
                        .and_then(|tls| tls.client.as_ref())
                        .map(|it| &it.cert)
                )
            },
            ["/a", "/b", "/c"],
        ),
        Key::TlsKeyFile => (
            |config| {
                format!(
                    "{:?}",
                    config
                        .oap
                        .tls
                        .as_ref()
                        .and_then(|tls| tls.client.as_ref())
                        .map(|it| &it.key)
                )
            },
            ["/a", "/b", "/c"],
        ),
        Key::QueueSegments => (|config| config.oap.queue_segments.to_string(), ["1", "2", "3"]),
        Key::BatchSegments => (|config| config.oap.batch_segments.to_string(), ["1", "2", "3"]),
        Key::BatchDelayMs => (|config| config.oap.batch_delay_ms.to_string(), ["1", "2", "3"]),
        Key::TimeoutS => (|config| config.oap.timeout_s.to_string(), ["1", "2", "3"]),
        Key::HeartbeatS => (|config| config.oap.heartbeat_s.to_string(), ["1", "2", "3"]),
        Key::Propagate => (
            |config| format!("{:?}", config.propagate),
            ["off", "sw8,w3c", "w3c"],
        ),
        Key::Routes => (
            |config| format!("{:?}", config.routes),
            ["path", "pattern", "path"],
        ),
        Key::Sampling => (
            |config| format!("{:?}", config.sampling.method),
            ["adaptive", "all", "adaptive"],
        ),
        Key::SampleRate => (|config| format!("{:?}", config.sampling), ["0.1", "1", "0"]),
        Key::RatePerSecond | Key::BurstSize => (|config| format!("{:?}", config.sampling), ["1", "2", "3"]),
        Key::AdaptiveThreshold => (|config| format!("{:?}", config.sampling), ["1", "2", "3"]),
        Key::AdaptiveCpuPercent => (|config| format!("{:?}", config.sampling), ["0.5", "10", "3"]),
        Key::SampleNPer3Secs => (|config| format!("{:?}", config.sampling), ["0", "2", "3"]),
        Key::SamplePaths => (
            |config| format!("{:?}", config.sampling),
            ["/a=0", "/b/*=0.5", "/=1"],
        ),
        Key::KeepErrors => (
            |config| config.sampling.keep_errors.to_string(),
            ["true", "false", "false"],
        ),
        Key::KeepSlowerThan => (
            |config| config.sampling.keep_slower_than_ms.to_string(),
            ["2s", "5ms", "300ms"],
        ),
        Key::GrpcMessages => (
            |config| config.grpc_messages.to_string(),
            ["false", "true", "false"],
        ),
        Key::DebugTags => (|config| config.debug_tags.to_string(), ["true", "true", "false"]),
        Key::Http => (
            |config| format!("{:?}", config.http),
            ["127.0.0.1:1", "[::1]:2", "127.0.0.1:3"],
        ),
        Key::StatusSocket => (
            |config| format!("{:?}", config.status_socket),
            ["/a.sock", "off", "/c.sock"],
        ),
        Key::Log => (|config| format!("{:?}", config.log), ["error", "debug", "trace"]),
    }
}

/// Something is selected, and certificate and key come together.
fn company(key: Key, is_given: bool) -> Vec<&'static str> {
    let mut flags = if key == Key::Pid {
        vec!["--port=1"]
    } else {
        vec!["--pid=1"]
    };
    if key == Key::TlsCertFile && is_given {
        flags.push("--tls-key=/k");
    }
    if key == Key::BurstSize && is_given {
        flags.push("--rate-per-second=9");
    }
    if key == Key::TlsKeyFile && is_given {
        flags.push("--tls-cert=/k");
    }
    flags
}

#[test]
fn flag_over_environment_over_file_over_default_for_every_key() {
    for key in Key::ALL {
        let (value, [flag_text, environment_text, file_text]) = samples(key);
        let flag = format!("{}={flag_text}", key.flag());
        let file = format!("{}: {file_text:?}\n", key.name());
        let with = |flag: Option<&str>, environment: &[(&str, &str)], file: Option<&str>| {
            let is_given = flag.is_some() || !environment.is_empty() || file.is_some();
            let flags: Vec<_> = company(key, is_given).into_iter().chain(flag).collect();
            value(&run(&flags, environment, file).unwrap())
        };
        // What has no flag begins one step lower.
        let flag = is_public(key).then_some(flag.as_str());
        let only_flag = flag.map(|flag| with(Some(flag), &[], None));
        let only_file = with(None, &[], Some(&file));
        if let Some(flag) = flag {
            assert_eq!(Some(with(Some(flag), &[], Some(&file))), only_flag, "{key:?}");
        }
        for name in key.environment() {
            let environment = [(*name, environment_text)];
            let only_environment = with(None, &environment, None);
            assert_ne!(only_environment, only_file, "{key:?} {name}");
            assert_eq!(
                with(None, &environment, Some(&file)),
                only_environment,
                "{key:?} {name}"
            );
            if let Some(flag) = flag {
                let all = with(Some(flag), &environment, Some(&file));
                assert_eq!(Some(all), only_flag, "{key:?} {name}");
            }
            // Set, but empty: as if it were not there.
            assert_eq!(
                with(None, &[(*name, "")], Some(&file)),
                only_file,
                "{key:?} {name}"
            );
        }
        let default = with(None, &[], None);
        let is_heard = only_flag.is_some_and(|value| value != default) || only_file != default;
        assert!(is_heard, "{key:?} {default}");
    }
}

#[test]
fn the_java_agents_variable_comes_first() {
    let both = [
        ("SW_AGENT_COLLECTOR_BACKEND_SERVICES", "java:1"),
        ("SW_AGENT_REPORTER_GRPC_BACKEND_SERVICE", "go:2"),
    ];
    let config = run(&["--all-go"], &both, None).unwrap();
    assert_eq!(
        config.oap.addresses,
        [Address {
            host: "java".to_owned(),
            port: 1
        }]
    );
}

#[test]
fn defaults() {
    let config = run(&["--all-go"], &[], None).unwrap();
    assert_eq!(config.export, Export::Text);
    assert_eq!(
        config.propagate,
        Propagate {
            sw8: true,
            w3c: false
        }
    );
    assert_eq!(config.routes, Routes::Pattern);
    assert_eq!(config.color, Color::Auto);
    assert_eq!(config.log, LogLevel::Info);
    assert_eq!(
        config
            .oap
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["127.0.0.1:11800"]
    );
    assert_eq!(config.oap.tls, None);
    assert_eq!(config.naming, Naming::default());
}

#[test]
fn an_oap_address_makes_skywalking_the_default() {
    assert_eq!(
        run(&["--all-go", "--oap", "oap:11800"], &[], None)
            .unwrap()
            .export,
        Export::SkyWalking
    );
    let environment = [("SW_AGENT_COLLECTOR_BACKEND_SERVICES", "a:1,b:2")];
    let config = run(&["--all-go"], &environment, None).unwrap();
    assert_eq!(
        (config.export, config.oap.addresses.len()),
        (Export::SkyWalking, 2)
    );
    assert_eq!(
        run(&["--all-go", "--export", "text"], &environment, None)
            .unwrap()
            .export,
        Export::Text
    );
    assert_eq!(
        run(&["--all-go"], &[], Some("oap: [a:1, 'b:2']"))
            .unwrap()
            .oap
            .addresses
            .len(),
        2
    );
}

#[test]
fn headers_may_be_a_list() {
    let both = run(&["--all-go"], &[], Some("propagate: [sw8, w3c]")).unwrap();
    assert_eq!(both.propagate, Propagate { sw8: true, w3c: true });
}

#[test]
fn no_color_is_heard_unless_color_is_asked_for() {
    assert_eq!(
        run(&["--all-go"], &[("NO_COLOR", "1")], None).unwrap().color,
        Color::Never
    );
    assert_eq!(
        run(&["--all-go"], &[("TERM", "dumb")], None).unwrap().color,
        Color::Never
    );
    assert_eq!(
        run(&["--all-go", "--color=always"], &[("NO_COLOR", "1")], None)
            .unwrap()
            .color,
        Color::Always
    );
}

#[test]
fn tls_is_on_when_a_certificate_is_given_and_not_refused() {
    let ca = [("SW_AGENT_SSL_TRUSTED_CA_PATH", "/ca.pem")];
    let tls = run(&["--all-go"], &ca, None).unwrap().oap.tls.unwrap();
    assert_eq!(tls.ca.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(
        run(&["--all-go", "--tls=false"], &ca, None).unwrap().oap.tls,
        None
    );
    assert_eq!(
        run(&["--all-go", "--tls"], &[], None).unwrap().oap.tls,
        Some(Tls::default())
    );
}

#[test]
fn a_file_holds_lists_and_single_values() {
    let file = "# what to trace\npid: 7\nexe: [\"/srv/*\", gateway]\nport:\n  - 80\n  - 81\nservice: 42\n";
    let config = run(&[], &[], Some(file)).unwrap();
    assert_eq!(config.select.pids, [7]);
    assert_eq!(config.select.exes, ["/srv/*", "gateway"]);
    assert_eq!(config.select.ports, [80, 81]);
    assert_eq!(config.naming.service.as_deref(), Some("42"));
}

#[test]
fn rules_are_read_in_their_order() {
    let file = "rules:\n  - exclude: {namespace: kube-system}\n  - include:\n      namespace: [shop, \"bank-*\"]\n      \
                pod_label: [tier=web*, traced]\n      language: go\n  - include: {exe: /srv/*, port: 80, unit: a.service}\n  \
                - exclude:\n";
    let config = run(&[], &[], Some(file)).unwrap();
    let text = |text: &str| vec![text.to_owned()];
    let rules: Vec<_> = config
        .select
        .rules
        .into_iter()
        .map(|rule| (rule.place.line.unwrap(), rule.verdict, rule.conditions))
        .collect();
    let rule = |line, verdict, conditions| (line, verdict, conditions);
    assert_eq!(
        rules,
        [
            rule(
                2,
                Verdict::Exclude,
                vec![Condition::Namespace(text("kube-system"))]
            ),
            rule(
                3,
                Verdict::Include,
                vec![
                    Condition::Namespace(vec!["shop".to_owned(), "bank-*".to_owned()]),
                    Condition::PodLabel(vec![
                        Pair {
                            key: "tier".to_owned(),
                            value: Some("web*".to_owned())
                        },
                        Pair {
                            key: "traced".to_owned(),
                            value: None
                        },
                    ]),
                    Condition::Language(vec![Language::Go]),
                ]
            ),
            rule(
                7,
                Verdict::Include,
                vec![
                    Condition::Exe(text("/srv/*")),
                    Condition::Port(vec![80]),
                    Condition::Unit(text("a.service")),
                ]
            ),
            rule(8, Verdict::Exclude, Vec::new()),
        ]
    );
}

#[test]
fn what_changes_while_the_probe_runs_is_taken_over_or_named() {
    let of = |file: &str| run(&["--all-go"], &[], Some(file)).unwrap();
    let old = of("service: a\noap: one:11800\nlog: info");
    let new = of(
        "service: b\nexe: x\noap: two:11800\nsample_rate: 0.5\nproperty_labels: tier\nhttp: 127.0.0.1:1\n\
         node: n",
    );
    let (taken, waiting) = old.take_over(new.clone());
    assert_eq!(
        waiting,
        ["node", "oap", "sampling and what belongs to it", "http"]
    );
    assert_eq!(taken.naming, new.naming);
    assert_eq!(taken.select, new.select);
    assert_eq!(taken.pods.property_labels, new.pods.property_labels);
    assert_eq!((&taken.oap, &taken.http), (&old.oap, &old.http));
    // Processes named by id are those of the start, however often the file is read.
    let other = of("pid: 7");
    let mut holds = old.clone();
    for _ in 0..2 {
        let (taken, waiting) = holds.take_over(other.clone());
        assert_eq!(
            (&taken.select.pids, waiting.contains(&"pid")),
            (&Vec::new(), true)
        );
        holds = taken;
    }
    let (same, waiting) = old.take_over(old.clone());
    assert_eq!((same, waiting), (old.clone(), Vec::new()));
}

#[test]
fn templates_know_their_placeholders() {
    let template = |text: &str| run(&["--all-go", "--service-template", text], &[], None);
    let pieces = template("a-{workload}.{label:app/x}")
        .unwrap()
        .naming
        .service_template;
    assert_eq!(
        pieces.unwrap().0,
        [
            Piece::Text("a-".to_owned()),
            Piece::Placeholder(Placeholder::Workload),
            Piece::Text(".".to_owned()),
            Piece::Placeholder(Placeholder::Label("app/x".to_owned())),
        ]
    );
    for wrong in ["{pods}", "{pod", "", "{label:}", "{env:A}"] {
        let sentence = complaint(template(wrong));
        assert!(
            sentence.starts_with(&format!(
                "{wrong:?} in --service-template is not a name with placeholders"
            )),
            "{sentence}"
        );
    }
    assert_eq!(
        complaint(run(
            &["--all-go", "--service=a", "--service-template={pod}"],
            &[],
            None
        )),
        "--service and --service-template say the same thing twice: leave one of them out"
    );
}

#[test]
fn the_other_commands() {
    let inspect = |subject, json| Invocation::Inspect { subject, json };
    assert_eq!(
        call(&["inspect", "17"], &[]).unwrap(),
        inspect(Subject::Pid(17), false)
    );
    let file = Subject::File(PathBuf::from("./17"));
    assert_eq!(
        call(&["inspect", "--json", "./17"], &[]).unwrap(),
        inspect(file, true)
    );
    assert_eq!(
        call(&["doctor", "--json"], &[]).unwrap(),
        Invocation::Doctor { json: true }
    );
    let Invocation::Show(version) = call(&["--version"], &[]).unwrap() else {
        panic!("no version")
    };
    assert_eq!(version, format!("skyprobe {}\n", crate::version::BOTH));
    let Invocation::Show(help) = call(&["run", "--help"], &[]).unwrap() else {
        panic!("no help")
    };
    for key in Key::ALL.into_iter().filter(|key| is_public(*key)) {
        assert!(help.contains(&key.flag()), "{key:?}");
    }
}

#[test]
fn each_way_to_sample() {
    let sampling = |flags: &[&str]| {
        let flags: Vec<_> = flags.iter().copied().chain(["--pid=1"]).collect();
        run(&flags, &[], None).map(|config| config.sampling)
    };
    let method = |flags: &[&str]| sampling(flags).unwrap().method;
    assert_eq!(method(&[]), SamplingMethod::All);
    assert!(!sampling(&[]).unwrap().is_on());
    assert!(sampling(&["--sample-paths=/a=0"]).unwrap().is_on());
    let all = Ratio(u32::MAX);
    assert_eq!(
        method(&["--sample-rate=1"]),
        SamplingMethod::Constant { ratio: all }
    );
    let limited = |rate_per_second, burst_size| SamplingMethod::RateLimiting {
        rate_per_second,
        burst_size,
    };
    assert_eq!(method(&["--rate-per-second=5"]), limited(5, 5));
    assert_eq!(
        method(&[
            "--sampling=rate_limiting",
            "--rate-per-second=5",
            "--burst-size=9"
        ]),
        limited(5, 9)
    );
    let adaptive = |threshold_per_second, cpu_permille| SamplingMethod::Adaptive {
        threshold_per_second,
        cpu_permille,
    };
    assert_eq!(method(&["--sampling=adaptive"]), adaptive(100, 100));
    assert_eq!(method(&["--adaptive-cpu-percent=2.5"]), adaptive(100, 25));
    let file = run(
        &["--pid=1"],
        &[],
        Some("sample_rate: 0.5\nsample_paths: [/a=0.5]\n"),
    )
    .unwrap()
    .sampling;
    let half = Ratio(1 << 31);
    assert_eq!(file.method, SamplingMethod::Constant { ratio: half });
    let path = PathRatio {
        path: "/a".to_owned(),
        is_prefix: false,
        ratio: half,
    };
    assert_eq!(file.paths, [path]);
}
