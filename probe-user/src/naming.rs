//! What a traced process is called: its service and instance names, from our configuration, its environment and
//! its executable.

use std::{fs, sync::LazyLock};

use probe_common::limits::NAME_MAX;
use tracing::warn;

use crate::{config::Config, discover::process::Process, trace::segment::Identity};

/// OAP cuts service and instance names here, and two names cut alike would be one.
const NAME_MAX_CHARACTERS: usize = 70;
/// Stands between name, namespace and cluster.
const SEPARATOR: char = '|';

const ENVIRONMENT: [&str; 6] = [
    "SW_AGENT_NAME",
    "OTEL_SERVICE_NAME",
    "SW_AGENT_INSTANCE_NAME",
    "SW_AGENT_NAMESPACE",
    "SW_AGENT_CLUSTER",
    "HOSTNAME",
];

/// The name of this machine, or of the container we run in.
static OUR_HOST: LazyLock<String> =
    LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());

/// The names under which `process` is reported. What our configuration says comes first, then what the process
/// itself was told, as an agent within it would have been.
pub fn name_target(process: &Process, config: &Config) -> Identity {
    let environment = process.environment(&ENVIRONMENT);
    let told = |name: &str| {
        environment
            .get(name)
            .map(|value| clean(value))
            .filter(|value| !value.is_empty())
    };
    let naming = &config.naming;
    let name = naming
        .service
        .clone()
        .or_else(|| told("SW_AGENT_NAME"))
        .or_else(|| told("OTEL_SERVICE_NAME"));
    let name = name.unwrap_or_else(|| clean(&process.exe_name()));
    let namespace = naming.namespace.clone().or_else(|| told("SW_AGENT_NAMESPACE"));
    let cluster = naming.cluster.clone().or_else(|| told("SW_AGENT_CLUSTER"));
    let instance = naming
        .instance
        .clone()
        .or_else(|| told("SW_AGENT_INSTANCE_NAME"))
        .unwrap_or_else(|| {
            let host = if shares_our_host_name(process) {
                None
            } else {
                told("HOSTNAME")
            };
            instance(process, host.as_ref().unwrap_or(&OUR_HOST))
        });
    let service = service(&name, namespace.as_deref(), cluster.as_deref());
    Identity {
        service: cut("service", service, process.pid),
        instance: cut("instance", instance, process.pid),
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

fn shares_our_host_name(process: &Process) -> bool {
    let uts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/uts")).ok();
    uts(&process.pid.to_string()) == uts("self")
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
    use crate::config::{self, Invocation};

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
        name_target(&Sleeper::with(environment).process(), &config(flags))
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
        let of = |sleeper: &Sleeper| name_target(&sleeper.process(), &config(&[])).instance;
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
