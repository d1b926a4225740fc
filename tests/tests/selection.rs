//! Who is meant: rules, units, and a configuration that changes while the probe runs.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;
use tests::{
    cgroup::Cgroup,
    needs_probe,
    probe::Probe,
    scene::{all_is_told, truth_program},
    segment::Segment,
    target::{Load, Service},
};
use xtask::step::wait_until;

/// Longer than the probe takes to see that its file has changed, on a busy machine.
const TAKEN_OVER: Duration = Duration::from_secs(20);

/// Copies of the truth program, so that each can be meant by its path, and a configuration file beside them.
struct Shop {
    folder: TempDir,
}

impl Shop {
    fn open() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.folder.path().join(name);
        fs::copy(truth_program().unwrap(), &copy).unwrap();
        copy
    }

    /// A service that runs a copy of its own, named as it is.
    fn service(&self, name: &str, first_id: u64) -> Service {
        Service::start(&self.copy(name), name, first_id, None).unwrap()
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("skyprobe.yaml")
    }

    /// Puts a new file in the old one's place, as editors and Kubernetes do. `SHOP` stands for the folder.
    fn configure(&self, text: &str) {
        let next = self.folder.path().join("next.yaml");
        fs::write(&next, text.replace("SHOP", self.folder.path().to_str().unwrap())).unwrap();
        fs::rename(next, self.config()).unwrap();
    }

    fn probe(&self) -> Probe {
        Probe::start(&["--config", self.config().to_str().unwrap()]).unwrap()
    }
}

fn services(segments: &[Segment]) -> HashSet<&str> {
    segments.iter().map(|segment| segment.service.as_str()).collect()
}

fn ask(services: &[&Service], id: u64) {
    for service in services {
        assert_eq!(service.get(&format!("/leaf/{id}")).unwrap().status, 200);
    }
}

#[test]
fn the_first_rule_decides() {
    needs_probe!();
    let shop = Shop::open();
    let [a, b, c, d] = ["shop-a", "shop-b", "shop-c", "bank"].map(|name| shop.service(name, 1_000));
    let (_, port) = c.host().rsplit_once(':').unwrap();
    shop.configure(&format!(
        "rules:\n - exclude: {{exe: SHOP/shop-b}}\n - exclude: {{port: {port}}}\n - include: {{exe: \"SHOP/*\", \
         language: go}}\n"
    ));
    let probe = shop.probe();
    ask(&[&a, &b, &c, &d], 7);
    let segments = probe
        .wait_for("both that are meant", |segments| services(segments).len() == 2)
        .unwrap();
    assert_eq!(services(&segments), HashSet::from(["shop-a", "bank"]));
    let ended = probe.stop().unwrap();
    assert_eq!(services(&ended.segments), HashSet::from(["shop-a", "bank"]));
}

#[test]
fn a_changed_file_is_taken_over_and_who_stays_loses_nothing() {
    needs_probe!();
    let shop = Shop::open();
    let [stays, comes, goes] = ["stays", "comes", "goes"].map(|name| shop.service(name, 1_000));
    shop.configure("rules:\n - include: {exe: [SHOP/stays, SHOP/goes]}\n");
    let probe = shop.probe();
    let load = Load::start(&truth_program().unwrap(), &stays, 200, 3600.0, "leaf").unwrap();
    ask(&[&comes, &goes], 1);
    probe
        .wait_for("who is meant at first", |segments| {
            services(segments).contains("goes")
        })
        .unwrap();

    shop.configure("rules:\n - include: {exe: SHOP/stays}\n - exclude: {exe: SHOP/goes}\nexe: SHOP/*\n");
    probe
        .wait_for_words("Configuration taken over", TAKEN_OVER)
        .unwrap();
    // Whom it means now is traced at the next look.
    probe.wait_for_words("service=\"comes\"", TAKEN_OVER).unwrap();
    ask(&[&comes, &goes], 2);
    probe
        .wait_for("who came", |segments| services(segments).contains("comes"))
        .unwrap();

    // What is wrong is said, and changes nothing.
    shop.configure("rules:\n - includes: {exe: SHOP/stays}\n");
    probe
        .wait_for_words("skyprobe.yaml:2: did you mean", TAKEN_OVER)
        .unwrap();
    // So is what would leave nothing to trace until the next start, which ids wait for.
    shop.configure(&format!("pid: {}\n", stays.target.pid()));
    probe
        .wait_for_words("counts from the next start on", TAKEN_OVER)
        .unwrap();
    // What cannot be taken over is said as well, here on request.
    shop.configure("exe: SHOP/*\nlog: debug\n");
    probe.signal(libc::SIGHUP);
    probe
        .wait_for_words("these wait for its next start keys=\"log\"", TAKEN_OVER)
        .unwrap();
    ask(&[&comes], 3);

    let summary = load.enough().unwrap();
    assert_eq!(summary.failed, 0, "{}", summary.first_error);
    let told = stays.records().unwrap().len();
    probe
        .wait_for("all of who stays", |segments| {
            let own = segments.iter().filter(|segment| segment.service == "stays");
            own.map(|segment| segment.spans.len()).sum::<usize>() >= told
        })
        .unwrap();
    let ended = probe.stop().unwrap();
    let of = |name: &str| {
        let own = ended.segments.iter().filter(|segment| segment.service == name);
        own.count()
    };
    // Each asked of the first request only while it was meant; the last reload meant all of them.
    assert_eq!((of("comes"), of("goes")), (2, 1));
    all_is_told(&stays.records().unwrap(), &ended.of_services(&["stays"]));
}

/// As the entry points of containers do, and `nohup`.
#[test]
fn a_program_that_a_shell_becomes_is_traced() {
    needs_probe!();
    let shop = Shop::open();
    let app = shop.copy("app");
    let shell = shop.folder.path().join("shell");
    fs::copy("/bin/sh", &shell).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    shop.configure("rules:\n - include: {exe: SHOP/*}\n");
    let probe = shop.probe();
    // One that was looked at, and refused, before it becomes the program, and one that is too quick for that.
    for (pause, name) in [("sleep 2;", "late"), ("", "early")] {
        let mut command = Command::new(&shell);
        command
            .args(["-c", &format!("{pause} exec \"$@\""), "sh"])
            .arg(&app);
        command.args(["serve", "-name", name, "-first-id", "1000"]);
        command.env("SW_AGENT_NAME", name);
        let service = Service::spawn(&mut command).unwrap();
        probe
            .wait_for_words(&format!("service=\"{name}\""), TAKEN_OVER)
            .unwrap();
        ask(&[&service], 1);
        probe
            .wait_for(name, |segments| services(segments).contains(name))
            .unwrap();
        let pid = service.target.pid();
        let words = probe.stderr();
        let of_it = |line: &&str| line.contains(&format!("pid={pid} "));
        let traced = words
            .lines()
            .filter(of_it)
            .filter(|line| line.contains("Process traced"));
        assert_eq!(traced.count(), 1, "{words}");
        // Renamed while it runs, it is still the program that was meant.
        let renamed = elsewhere.path().join(name);
        fs::rename(&app, &renamed).unwrap();
        let taken_over = || probe.stderr().matches("Configuration taken over").count();
        let before = taken_over();
        shop.configure(&format!("# {name}\nrules:\n - include: {{exe: SHOP/*}}\n"));
        assert!(
            wait_until(TAKEN_OVER, || taken_over() > before),
            "{}",
            probe.stderr()
        );
        ask(&[&service], 2);
        probe
            .wait_for("another one", |segments| {
                let own = segments.iter().filter(|segment| segment.service == name);
                own.count() == 2
            })
            .unwrap();
        assert!(
            !probe
                .stderr()
                .lines()
                .any(|line| of_it(&line) && line.contains("let go"))
        );
        fs::rename(&renamed, &app).unwrap();
    }
    probe.stop().unwrap();
}

/// Connections outlive the selection: who comes back has them still, and its requests get headers.
#[test]
fn who_is_selected_again_has_its_connections() {
    needs_probe!();
    let shop = Shop::open();
    let back = shop.service("back", 2_000);
    let front = Service::start(&shop.copy("front"), "front", 1_000, Some(&back)).unwrap();
    shop.configure("exe: [SHOP/front, SHOP/back]\n");
    let probe = shop.probe();
    let ask = |id: u32| assert_eq!(front.get(&format!("/sync/{id}")).unwrap().status, 200);
    ask(1);
    shop.configure("exe: [SHOP/back]\n");
    probe.wait_for_words("Process let go", TAKEN_OVER).unwrap();
    ask(2);
    let traced = |probe: &Probe| probe.stderr().matches("service=\"front\"").count();
    let before = traced(&probe);
    shop.configure("exe: [SHOP/front, SHOP/back]\n");
    wait_until(TAKEN_OVER, || traced(&probe) > before);
    ask(3);
    probe.segment_of("Entry", "/sync/3").unwrap();
    let ended = probe.stop().unwrap();
    assert!(!ended.stderr.contains("not enrolled"), "{}", ended.stderr);
    let entry = |id: u32| {
        let own = ended.segments.iter().filter(|segment| segment.service == "front");
        own.filter_map(Segment::entry)
            .any(|span| span.path() == Some(&format!("/sync/{id}")))
    };
    assert_eq!([entry(1), entry(2), entry(3)], [true, false, true]);
    // What `back` served for the third came with a header, over the connection of the first.
    let referred = ended.segments.iter().filter(|segment| segment.service == "back");
    let referred = referred
        .filter_map(Segment::entry)
        .filter(|span| !span.refs.is_empty());
    assert_eq!(referred.count(), 2, "{:#?}", ended.segments);
}

/// What systemd starts is in a group that has the unit's name.
#[test]
fn a_unit_is_meant_and_called_by_its_name() {
    needs_probe!();
    let shop = Shop::open();
    let unit = Cgroup::new("system.slice/shop-gateway@eu.service").unwrap();
    let other = Cgroup::new(&format!(
        "system.slice/docker-{}.scope",
        "0123456789abcdef".repeat(4)
    ))
    .unwrap();
    let start = |program: &Path, group: &Cgroup| {
        let mut command = Command::new(program);
        let command = command.args(["serve", "-name", "unused", "-first-id", "1000"]);
        let service = Service::spawn(command.env_remove("SW_AGENT_NAME")).unwrap();
        group.add(service.target.pid()).unwrap();
        service
    };
    let program = shop.copy("program");
    let (in_unit, in_container) = (start(&program, &unit), start(&program, &other));
    shop.configure("rules:\n - include: {unit: \"shop-*\"}\n - include: {unit: nobody, exe: \"*\"}\n");
    let probe = shop.probe();
    ask(&[&in_unit, &in_container], 1);
    let segments = probe
        .wait_for("the unit's request", |segments| !segments.is_empty())
        .unwrap();
    assert_eq!(services(&segments), HashSet::from(["shop-gateway@eu"]));
    // Others of the same program are not meant; and outside units the program's name is all there is.
    shop.configure("exe: SHOP/program\n");
    probe.wait_for_words("service=\"program\"", TAKEN_OVER).unwrap();
    ask(&[&in_container], 2);
    let segments = probe
        .wait_for("the container's request", |segments| {
            services(segments).len() == 2
        })
        .unwrap();
    assert_eq!(services(&segments), HashSet::from(["shop-gateway@eu", "program"]));
    probe.stop().unwrap();
}
