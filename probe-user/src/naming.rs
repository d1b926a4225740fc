//! What a traced process is called: its service and instance names, from our configuration, its environment, its pod or
//! unit, and its executable.

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path, sync::LazyLock};

use probe_common::limits::NAME_MAX;
use tracing::warn;

use crate::{
    config::{Config, Piece, Placeholder, Template},
    discover::{
        container::Place,
        pod::{Container, Pod},
        process::Process,
    },
    trace::segment::Identity,
};

/// OAP cuts service and instance names here, and two names cut alike would be one.
const NAME_MAX_CHARACTERS: usize = 70;
/// Stands between name, namespace and cluster.
const SEPARATOR: char = '|';

/// The annotation or label by which a pod says what SkyWalking is to call it.
const SERVICE_KEY: &str = "skywalking.apache.org/service";
/// The label by which Kubernetes recommends to say what a pod is.
const NAME_LABEL: &str = "app.kubernetes.io/name";

const ENVIRONMENT: [&str; 6] = [
    "SW_AGENT_NAME",
    "OTEL_SERVICE_NAME",
    "SW_AGENT_INSTANCE_NAME",
    "SW_AGENT_NAMESPACE",
    "SW_AGENT_CLUSTER",
    "HOSTNAME",
];

/// The name of this machine, or of the container we run in.
pub static OUR_HOST: LazyLock<String> =
    LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());

/// What is known of a process that is to be named.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub process: &'a Process,
    pub place: &'a Place,
    pub pod: Option<&'a Pod>,
}

/// The names under which a process is reported. What our configuration says comes first, then what the process itself
/// was told, as an agent within it would have been, then what it runs in.
pub fn name_target(known: Known<'_>, config: &Config) -> Identity {
    let Known { process, .. } = known;
    let environment = process.environment(&ENVIRONMENT);
    let told = |name: &str| {
        environment
            .get(name)
            .map(|value| clean(value))
            .filter(|value| !value.is_empty())
    };
    let naming = &config.naming;
    let named = known.service(told("OTEL_SERVICE_NAME"));
    let filled = |template: &Option<Template>| known.fill(template.as_ref()?, &named.name, config);
    let set = naming.service.clone().or_else(|| told("SW_AGENT_NAME"));
    let Named { name, namespace } = match set.or_else(|| filled(&naming.service_template)) {
        // It says all there is to say.
        Some(name) => Named {
            name,
            namespace: None,
        },
        None => named.clone(),
    };
    let namespace = naming
        .namespace
        .clone()
        .or_else(|| told("SW_AGENT_NAMESPACE"))
        .or(namespace);
    let cluster = naming.cluster.clone().or_else(|| told("SW_AGENT_CLUSTER"));
    let instance = naming
        .instance
        .clone()
        .or_else(|| told("SW_AGENT_INSTANCE_NAME"))
        .or_else(|| filled(&naming.instance_template))
        .or_else(|| known.pod.map(|pod| pod.name.clone()))
        .unwrap_or_else(|| {
            let host = host(process, told("HOSTNAME"));
            instance(process, host.as_ref().unwrap_or(&OUR_HOST))
        });
    let service = service(&name, namespace.as_deref(), cluster.as_deref());
    Identity {
        service: cut("service", service, process.pid),
        instance: cut("instance", instance, process.pid),
    }
}

/// Whether names are made of containers'.
pub fn asks_container(config: &Config) -> bool {
    let naming = &config.naming;
    let mut templates = [&naming.service_template, &naming.instance_template]
        .into_iter()
        .flatten();
    let container = Piece::Placeholder(Placeholder::Container);
    templates.any(|template| template.0.contains(&container))
}

/// A name, and the namespace that goes with it where it comes from there.
#[derive(Clone)]
struct Named {
    name: String,
    namespace: Option<String>,
}

impl Known<'_> {
    /// What it is called when nobody says otherwise. `told` is what its environment calls it.
    fn service(self, told: Option<String>) -> Named {
        let of_process = |name| Named {
            name,
            namespace: None,
        };
        let Some(pod) = self.pod else {
            let name = told.or_else(|| self.unit().map(str::to_owned));
            return of_process(name.unwrap_or_else(|| clean(&self.process.exe_name())));
        };
        let said = |values: &BTreeMap<String, String>, key: &str| {
            values
                .get(key)
                .map(|value| clean(value))
                .filter(|value| !value.is_empty())
        };
        let meant = said(&pod.annotations, SERVICE_KEY).or_else(|| said(&pod.labels, SERVICE_KEY));
        let name = match (meant, told) {
            (Some(name), _) => name,
            (None, Some(told)) => return of_process(told),
            (None, None) => said(&pod.labels, NAME_LABEL)
                .or_else(|| pod.workload.as_ref().map(|workload| workload.name.clone()))
                .unwrap_or_else(|| pod.name.clone()),
        };
        Named {
            name,
            namespace: Some(pod.namespace.clone()),
        }
    }

    fn unit(&self) -> Option<&str> {
        let unit = self.place.unit.as_deref()?;
        Some(unit.strip_suffix(".service").unwrap_or(unit))
    }

    fn container(&self) -> Option<&Container> {
        self.pod?.container_of(self.place)
    }

    /// The template with what is known put in; nothing if that leaves it empty.
    fn fill(&self, template: &Template, service: &str, config: &Config) -> Option<String> {
        let pod = self.pod;
        let value = |placeholder: &Placeholder| -> Option<Cow<'_, str>> {
            Some(match placeholder {
                Placeholder::Service => service.to_owned().into(),
                Placeholder::Namespace => pod?.namespace.as_str().into(),
                Placeholder::Pod => pod?.name.as_str().into(),
                Placeholder::Workload => pod?.workload.as_ref()?.name.as_str().into(),
                Placeholder::Container => self.container()?.name.as_str().into(),
                Placeholder::Node => match pod {
                    Some(pod) => pod.node.as_str().into(),
                    None => config
                        .pods
                        .node
                        .clone()
                        .unwrap_or_else(|| OUR_HOST.clone())
                        .into(),
                },
                Placeholder::Exe => self.process.exe_name().into(),
                Placeholder::Pid => self.process.pid.to_string().into(),
                Placeholder::Unit => self.unit()?.into(),
                Placeholder::Label(key) => pod?.labels.get(key)?.as_str().into(),
                Placeholder::Annotation(key) => pod?.annotations.get(key)?.as_str().into(),
            })
        };
        let text: String = template
            .0
            .iter()
            .filter_map(|piece| match piece {
                Piece::Text(text) => Some(Cow::from(text.as_str())),
                Piece::Placeholder(placeholder) => value(placeholder),
            })
            .collect();
        Some(clean(&text)).filter(|text| !text.is_empty())
    }

    /// What an instance tells of where it runs.
    pub fn properties(&self, config: &Config) -> Vec<(Cow<'static, str>, String)> {
        let mut properties = Vec::new();
        let mut tell = |key: &'static str, value: Option<&str>| {
            properties.extend(value.map(|value| (Cow::from(key), value.to_owned())));
        };
        let told = self.process.environment(&["HOSTNAME"]).remove("HOSTNAME");
        tell("hostname", host(self.process, told).as_deref());
        tell("unit", self.place.unit.as_deref());
        tell("container.id", self.place.container.as_deref());
        if let Some(pod) = self.pod {
            tell("namespace", Some(&pod.namespace));
            tell("pod", Some(&pod.name));
            tell("node", Some(&pod.node));
            tell("container", self.container().map(|it| it.name.as_str()));
            tell("image", self.container().map(|it| it.image.as_str()));
            for key in &config.pods.property_labels {
                let value = pod.labels.get(key).cloned();
                properties.extend(value.map(|value| (format!("label:{key}").into(), value)));
            }
        }
        properties
    }
}

/// `name|namespace|cluster` once there is a namespace or a cluster: an empty one keeps its place.
fn service(name: &str, namespace: Option<&str>, cluster: Option<&str>) -> String {
    match (namespace, cluster) {
        (None, None) => name.to_owned(),
        (namespace, cluster) => {
            let (namespace, cluster) = (namespace.unwrap_or_default(), cluster.unwrap_or_default());
            format!("{name}{SEPARATOR}{namespace}{SEPARATOR}{cluster}")
        }
    }
}

/// Nothing in it changes while the process lives, so a probe that is restarted finds the same name; and a process
/// that is restarted is a new instance. Ticks, because the wall time of the start moves with the wall clock.
fn instance(process: &Process, host: &str) -> String {
    format!("{}-{}@{host}", process.pid, process.start_ticks)
}

/// What the machine or the container is called that the process runs in. The kernel tells us our own name only: of
/// another one there is what the process was `told`, or the file that it was set from.
fn host(process: &Process, told: Option<String>) -> Option<String> {
    let pid = process.pid;
    let uts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/uts")).ok();
    if uts(&pid.to_string()) == uts("self") {
        return Some(OUR_HOST.clone());
    }
    let set = || fs::read_to_string(Path::new(&format!("/proc/{pid}/root")).join("etc/hostname")).ok();
    let name = clean(&told.or_else(set)?);
    (!name.is_empty()).then_some(name)
}

/// Without blanks around it and without characters that no name should hold.
fn clean(name: &str) -> String {
    name.trim()
        .chars()
        .filter(|character| !character.is_control())
        .collect()
}

/// Both limits hold: OAP's in characters, the kernel side's in bytes.
fn cut(what: &'static str, name: String, pid: u32) -> String {
    let end = name
        .char_indices()
        .take(NAME_MAX_CHARACTERS)
        .map(|(start, character)| start + character.len_utf8())
        .take_while(|end| *end <= NAME_MAX)
        .last();
    match name.get(..end.unwrap_or(0)) {
        Some(short) if short.len() < name.len() => {
            warn!(
                pid,
                what,
                name,
                cut = short,
                "Name is longer than SkyWalking keeps and was cut"
            );
            short.to_owned()
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        ffi::OsString,
        process::{Child, Command},
    };

    use super::*;
    use crate::{
        config::{self, Invocation},
        discover::pod::Workload,
    };

    struct Sleeper(Child);

    impl Sleeper {
        fn with(environment: &[(&str, &str)]) -> Self {
            let mut command = Command::new("sleep");
            for name in ENVIRONMENT {
                command.env_remove(name);
            }
            Self(
                command
                    .arg("1000")
                    .envs(environment.iter().copied())
                    .spawn()
                    .unwrap(),
            )
        }

        fn process(&self) -> Process {
            loop {
                let process = Process::read(self.0.id()).unwrap().unwrap();
                if process.exe != std::env::current_exe().unwrap() {
                    return process;
                }
                std::thread::yield_now();
            }
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn config(flags: &[&str]) -> Config {
        let arguments = ["skyprobe", "run", "--all-go"]
            .iter()
            .chain(flags)
            .map(OsString::from);
        let Invocation::Run(config) = config::read(arguments, &|_| None).unwrap() else {
            panic!("not a run")
        };
        *config
    }

    fn named(environment: &[(&str, &str)], flags: &[&str]) -> Identity {
        name_process(&Sleeper::with(environment).process(), None, flags)
    }

    fn name_process(process: &Process, pod: Option<&Pod>, flags: &[&str]) -> Identity {
        let place = Place::default();
        let known = Known {
            process,
            place: &place,
            pod,
        };
        name_target(known, &config(flags))
    }

    fn pod(labels: &[(&str, &str)], annotations: &[(&str, &str)], workload: Option<&str>) -> Pod {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        Pod {
            uid: "u".to_owned(),
            name: "gateway-6d5f-x".to_owned(),
            namespace: "shop".to_owned(),
            node: "n1".to_owned(),
            labels: map(labels),
            annotations: map(annotations),
            workload: workload.map(|name| Workload {
                kind: "Deployment".to_owned(),
                name: name.to_owned(),
            }),
            containers: vec![Container {
                name: "app".to_owned(),
                image: "shop/gateway:1".to_owned(),
                id: None,
            }],
        }
    }

    #[test]
    fn the_service_is_what_the_process_was_told_else_its_executable() {
        let sleep = Sleeper::with(&[]).process().exe_name();
        assert_eq!(named(&[], &[]).service, sleep);
        assert_eq!(named(&[("OTEL_SERVICE_NAME", "otel")], &[]).service, "otel");
        let both = [("OTEL_SERVICE_NAME", "otel"), ("SW_AGENT_NAME", "sky")];
        assert_eq!(named(&both, &[]).service, "sky");
        assert_eq!(named(&both, &["--service", "ours"]).service, "ours");
        assert_eq!(named(&[("SW_AGENT_NAME", " \n")], &[]).service, sleep);
    }

    #[test]
    fn namespace_and_cluster_keep_their_places() {
        assert_eq!(
            named(&[], &["--service", "a", "--namespace", "n"]).service,
            "a|n|"
        );
        assert_eq!(named(&[], &["--service", "a", "--cluster", "c"]).service, "a||c");
        let told = [
            ("SW_AGENT_NAMESPACE", "n"),
            ("SW_AGENT_CLUSTER", "c"),
            ("SW_AGENT_NAME", "g::a"),
        ];
        assert_eq!(named(&told, &[]).service, "g::a|n|c");
        assert_eq!(named(&told, &["--cluster", "d"]).service, "g::a|n|d");
    }

    #[test]
    fn the_instance_stays_while_the_process_lives() {
        let (first, second) = (Sleeper::with(&[]), Sleeper::with(&[]));
        let of = |sleeper: &Sleeper| name_process(&sleeper.process(), None, &[]).instance;
        assert_eq!(of(&first), of(&first));
        assert_ne!(of(&first), of(&second));
        assert!(of(&first).starts_with(&format!("{}-", first.0.id())));
        assert!(of(&first).ends_with(&format!("@{}", *OUR_HOST)));
        assert_eq!(named(&[("SW_AGENT_INSTANCE_NAME", "one")], &[]).instance, "one");
        assert_eq!(
            named(&[("SW_AGENT_INSTANCE_NAME", "one")], &["--instance", "two"]).instance,
            "two"
        );
    }

    #[test]
    fn a_pods_name_is_what_it_says_else_what_it_belongs_to() {
        let process = Sleeper::with(&[]);
        let name = |pod: &Pod| name_process(&process.process(), Some(pod), &[]).service;
        let (said, label) = ((SERVICE_KEY, "said"), (NAME_LABEL, "label"));
        assert_eq!(name(&pod(&[label], &[said], Some("gateway"))), "said|shop|");
        assert_eq!(name(&pod(&[label, said], &[], Some("gateway"))), "said|shop|");
        assert_eq!(name(&pod(&[label], &[], Some("gateway"))), "label|shop|");
        assert_eq!(
            name(&pod(&[], &[(SERVICE_KEY, " ")], Some("gateway"))),
            "gateway|shop|"
        );
        assert_eq!(name(&pod(&[], &[], None)), "gateway-6d5f-x|shop|");
        let instance = name_process(&process.process(), Some(&pod(&[], &[], None)), &[]).instance;
        assert_eq!(instance, "gateway-6d5f-x");
    }

    #[test]
    fn what_a_process_in_a_pod_was_told_counts_more() {
        let pod_said = pod(&[], &[(SERVICE_KEY, "said")], None);
        let pod = pod(&[], &[], Some("gateway"));
        let named = |environment: &[(&str, &str)], pod: &Pod, flags: &[&str]| {
            name_process(&Sleeper::with(environment).process(), Some(pod), flags)
        };
        let sky = named(
            &[("SW_AGENT_NAME", "sky"), ("SW_AGENT_INSTANCE_NAME", "one")],
            &pod_said,
            &[],
        );
        assert_eq!((sky.service.as_str(), sky.instance.as_str()), ("sky", "one"));
        assert_eq!(named(&[("OTEL_SERVICE_NAME", "otel")], &pod, &[]).service, "otel");
        assert_eq!(
            named(&[("OTEL_SERVICE_NAME", "otel")], &pod_said, &[]).service,
            "said|shop|"
        );
        assert_eq!(
            named(&[("SW_AGENT_NAMESPACE", "n")], &pod, &[]).service,
            "gateway|n|"
        );
        assert_eq!(named(&[], &pod, &["--cluster", "c"]).service, "gateway|shop|c");
        assert_eq!(named(&[], &pod, &["--service", "fixed"]).service, "fixed");
    }

    #[test]
    fn templates_are_filled_with_what_is_known() {
        let process = Sleeper::with(&[]).process();
        let pod = pod(&[("tier", "web")], &[("a/b", "c")], Some("gateway"));
        let named = |pod: Option<&Pod>, template: &str| {
            let flags = [
                "--service-template",
                template,
                "--instance-template",
                template,
                "--node=here",
            ];
            let identity = name_process(&process, pod, &flags);
            (identity.service, identity.instance)
        };
        let both = |text: &str| (text.to_owned(), text.to_owned());
        assert_eq!(
            named(Some(&pod), "{namespace}/{workload}:{container}@{node}"),
            both("shop/gateway:app@n1")
        );
        assert_eq!(
            named(Some(&pod), "{label:tier}{label:none}-{annotation:a/b}"),
            both("web-c")
        );
        assert_eq!(named(Some(&pod), "{service}"), both("gateway"));
        assert_eq!(
            named(None, "{exe}-{pid}@{node}"),
            both(&format!("{}-{}@here", process.exe_name(), process.pid))
        );
        // With nothing to put in, it is as if there were no template.
        let (service, instance) = named(None, "{pod}");
        assert_eq!(service, process.exe_name());
        assert!(instance.ends_with(&format!("@{}", *OUR_HOST)));
    }

    #[test]
    fn a_unit_is_what_its_service_is_called() {
        let process = Sleeper::with(&[]).process();
        let place = Place {
            unit: Some("shop@eu.service".to_owned()),
            ..Place::default()
        };
        let known = Known {
            process: &process,
            place: &place,
            pod: None,
        };
        assert_eq!(name_target(known, &config(&[])).service, "shop@eu");
        assert_eq!(
            known.properties(&config(&[])),
            [("unit".into(), "shop@eu.service".to_owned())]
        );
    }

    #[test]
    fn an_instance_tells_where_it_runs() {
        let sleeper = Sleeper::with(&[]);
        let process = sleeper.process();
        let place = Place {
            container: Some("c1".to_owned()),
            ..Place::default()
        };
        let pod = pod(&[("tier", "web"), ("other", "x")], &[], None);
        let known = Known {
            process: &process,
            place: &place,
            pod: Some(&pod),
        };
        let told = known.properties(&config(&["--property-labels=tier", "--property-labels=none"]));
        let told: Vec<_> = told.iter().map(|(key, value)| (&**key, value.as_str())).collect();
        assert_eq!(
            told,
            [
                ("hostname", OUR_HOST.as_str()),
                ("container.id", "c1"),
                ("namespace", "shop"),
                ("pod", "gateway-6d5f-x"),
                ("node", "n1"),
                ("container", "app"),
                ("image", "shop/gateway:1"),
                ("label:tier", "web"),
            ]
        );
    }

    #[test]
    fn names_are_cut_where_oap_and_the_kernel_side_cut_them() {
        let long = "x".repeat(80);
        assert_eq!(named(&[("SW_AGENT_NAME", &long)], &[]).service, "x".repeat(70));
        // Three bytes each: 24 of them fill the kernel side's 72 bytes.
        let wide = "语".repeat(30);
        assert_eq!(named(&[("SW_AGENT_NAME", &wide)], &[]).service, "语".repeat(24));
        let fits = BTreeMap::from([(70, "y".repeat(70))]);
        assert_eq!(cut("service", fits[&70].clone(), 1), fits[&70]);
    }
}
