//! Programs that are replaced while the probe has hooks in them, and files that are one to the kernel under several
//! names.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use probe_user::kernel::{load, object::Uprobes};
use tempfile::TempDir;
use tests::{
    needs_probe,
    probe::{self, Ended, Probe},
    scene::{self, truth_program},
    skip,
    target::{Go, GoBuild, Service},
    truth::{self, Record},
};
use xtask::step::wait_until;

/// Each program in turn, so that each finds the hooks of the one before.
const TURNS: u64 = 2;

/// Two programs of one source whose functions lie elsewhere.
fn programs() -> [PathBuf; 2] {
    let moved = GoBuild::new("net_http").flag("-buildmode=pie");
    [
        truth_program().unwrap(),
        moved.build(&Go::system().unwrap()).unwrap(),
    ]
}

/// Writes the program into the file that is there, as `cp` does.
fn write_into(file: &Path, program: &Path) {
    let mut new = File::open(program).unwrap();
    let mut old = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)
        .unwrap();
    io::copy(&mut new, &mut old).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Requests to the service, each of which has it call itself. An answer that does not come fails the test: a program
/// with hooks at the wrong places hangs or dies.
fn exercise(service: &Service, count: u64) -> Vec<Record> {
    for id in 1..=count {
        let response = service.get(&format!("/sync/{id}")).unwrap();
        assert_eq!(response.status, 200, "{response:?}");
    }
    service.records().unwrap()
}

/// A service of this file, which is ended at once when it is dropped.
fn start(file: &Path, name: &str, first_id: u64) -> Service {
    Service::start(file, name, first_id, None).unwrap()
}

/// All that was done is there, and nothing was lost.
#[track_caller]
fn all_is_told(records: &[Record], ended: &Ended) {
    scene::all_is_told(records, ended);
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
}

/// Waits until the newest process of this service is traced.
fn traced(probe: &Probe, service: &Service) {
    let words = format!("Process traced pid={} ", service.target.pid());
    probe.wait_for_words(&words, Duration::from_secs(20)).unwrap();
}

#[test]
fn a_program_that_is_written_anew_in_place() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("service");
    let programs = programs();
    write_into(&file, &programs[0]);
    let probe = Probe::start(&["--exe", file.to_str().unwrap()]).unwrap();
    let mut records = Vec::new();
    for turn in 0..TURNS {
        let service = start(&file, "service", (turn + 1) * 1000);
        traced(&probe, &service);
        records.extend(exercise(&service, 20));
        // Ended, written anew and started as quickly as can be: the probe still has its hooks in the file.
        drop(service);
        write_into(&file, &programs[1 - usize::try_from(turn % 2).unwrap()]);
        let service = start(&file, "brief", 1_000_000 + turn);
        let answered = exercise(&service, 20);
        assert!(answered.len() >= 40, "{} records", answered.len());
        drop(service);
    }
    let ended = scene::stop_with(probe, records.len()).unwrap();
    all_is_told(&records, &ended.of_services(&["service"]));
}

#[test]
fn who_waits_to_write_does_not_get_the_hooks_of_a_probe_that_is_killed() {
    needs_probe!();
    if load::uprobes() == Uprobes::OneByOne {
        return skip::skip(
            "this kernel takes hooks out one by one, some of them after the file is given back",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("service");
    let programs = programs();
    write_into(&file, &programs[0]);
    let service = start(&file, "service", 1_000_000);
    let probe = Probe::start(&["--exe", file.to_str().unwrap()]).unwrap();
    exercise(&service, 20);
    drop(service);
    // So that it does not give the file back by itself.
    probe.signal(libc::SIGSTOP);
    thread::scope(|scope| {
        scope.spawn(|| write_into(&file, &programs[1]));
        let lease = format!(":{} ", fs::metadata(&file).unwrap().ino());
        let is_asked_back = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks
                .lines()
                .any(|lock| lock.contains("BREAKING") && lock.contains(&lease))
        };
        assert!(wait_until(Duration::from_secs(10), is_asked_back));
        probe.signal(libc::SIGKILL);
    });
    let renewed = start(&file, "renewed", 2_000_000);
    exercise(&renewed, 20);
    probe.finish().unwrap();
}

#[test]
fn a_program_that_is_replaced_while_it_runs() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("service");
    let programs = programs();
    write_into(&file, &programs[0]);
    let probe = Probe::start(&["--exe", file.to_str().unwrap()]).unwrap();
    let old = start(&file, "old", 1_000_000);
    traced(&probe, &old);
    let next = folder.path().join("next");
    write_into(&next, &programs[1]);
    fs::rename(&next, &file).unwrap();
    let new = start(&file, "new", 2_000_000);
    traced(&probe, &new);
    let mut records = exercise(&old, 20);
    records.extend(exercise(&new, 20));
    let ended = scene::stop_with(probe, records.len()).unwrap();
    all_is_told(&records, &ended);
}

#[test]
fn a_file_whose_times_and_rights_change_has_its_hooks_once() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("service");
    write_into(&file, &truth_program().unwrap());
    let first = start(&file, "first", 1_000_000);
    let probe = Probe::start(&["--exe", file.to_str().unwrap()]).unwrap();
    File::open(&file)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    fs::hard_link(&file, folder.path().join("link")).unwrap();
    let second = start(&file, "second", 2_000_000);
    traced(&probe, &second);
    let mut records = exercise(&first, 20);
    records.extend(exercise(&second, 20));
    let ended = scene::stop_with(probe, records.len()).unwrap();
    all_is_told(&records, &ended);
}

/// File systems over one layer, as containers of one image have them.
struct Containers {
    folder: TempDir,
}

impl Containers {
    const NAMES: [&str; 2] = ["one", "two"];

    /// Nothing where the kernel has no such file system, or lets us have none.
    fn of(program: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("image")).unwrap();
        write_into(&path("image/service"), program);
        for name in Self::NAMES {
            for kind in ["upper", "work", "root"] {
                fs::create_dir(path(&format!("{name}-{kind}"))).unwrap();
            }
            let layer = |kind: &str| path(&format!("{name}-{kind}")).display().to_string();
            let layers = format!(
                "lowerdir={},upperdir={},workdir={}",
                path("image").display(),
                layer("upper"),
                layer("work")
            );
            let mounted = Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &layers, &layer("root")])
                .stderr(Stdio::null())
                .status();
            if !mounted.is_ok_and(|status| status.success()) {
                skip::skip("no overlay file system can be mounted");
                return None;
            }
        }
        Some(Self { folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}-root/service"))
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for name in Self::NAMES {
            let root = self.folder.path().join(format!("{name}-root"));
            let _never_mounted = Command::new("umount").arg("--lazy").arg(root).status();
        }
    }
}

#[test]
fn containers_of_one_image_share_their_hooks() {
    needs_probe!();
    let programs = programs();
    let Some(containers) = Containers::of(&programs[0]) else {
        return;
    };
    let [one, two] = Containers::NAMES.map(|name| containers.file(name));
    let first = start(&one, "one", 1_000_000);
    let probe = Probe::start(&["--exe", "**/*-root/service"]).unwrap();
    let second = start(&two, "two", 2_000_000);
    traced(&probe, &second);
    let mut records = exercise(&first, 20);
    records.extend(exercise(&second, 20));

    // A container's file is copied when its rights change, and is another one for the kernel from then on.
    fs::set_permissions(&two, fs::Permissions::from_mode(0o700)).unwrap();
    let copied = start(&two, "copied", 3_000_000);
    traced(&probe, &copied);
    records.extend(exercise(&copied, 20));

    // A file is written anew in one container; what runs in the other one is traced on.
    drop((second, copied));
    write_into(&two, &programs[1]);
    let renewed = start(&two, "renewed", 4_000_000);
    traced(&probe, &renewed);
    records.extend(exercise(&renewed, 20));
    let is_traced = (0..100).any(|_| {
        first.get("/leaf/77").unwrap();
        thread::sleep(Duration::from_millis(100));
        probe
            .segments()
            .iter()
            .any(|segment| probe::has_span(segment, "Entry", "/leaf/77"))
    });
    assert!(is_traced, "{}", probe.stderr());
    let ended = scene::stop_with(probe, records.len()).unwrap();
    let account = truth::join(&records, &ended.segments, true);
    assert_eq!(account.total().found, account.total().made, "{}", ended.stderr);
    assert!(!ended.stderr.contains("end_missed"), "{}", ended.stderr);
}

#[test]
fn where_a_file_cannot_be_held_each_process_has_hooks_of_its_own() {
    needs_probe!();
    const CAP_LEASE: libc::c_ulong = 28;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("service");
    let programs = programs();
    write_into(&file, &programs[0]);
    // Another user's file, which only who has the capability may hold.
    chown(&file, Some(65534), Some(65534)).unwrap();
    let first = start(&file, "first", 1_000_000);
    let mut command = Command::new(probe::binary().unwrap());
    command
        .args(["run", "--export", "json", "--log", "debug", "--exe"])
        .arg(&file);
    // SAFETY: between fork and exec the closure makes a system call only.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_CAPBSET_DROP, CAP_LEASE, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let probe = Probe::spawn(&mut command).unwrap();
    probe.ready().unwrap();
    probe
        .wait_for_words("No lease on the program's file", Duration::from_secs(1))
        .unwrap();
    let second = start(&file, "second", 2_000_000);
    traced(&probe, &second);
    let mut records = exercise(&first, 20);
    records.extend(exercise(&second, 20));
    probe
        .wait_for("the spans of both", |segments| {
            segments.iter().map(|segment| segment.spans.len()).sum::<usize>() >= records.len()
        })
        .unwrap();

    // Nobody is kept from writing, and what is started then has no hooks that were not meant for it.
    drop((first, second));
    write_into(&file, &programs[1]);
    let renewed = start(&file, "renewed", 3_000_000);
    exercise(&renewed, 20);
    traced(&probe, &renewed);
    thread::sleep(Duration::from_millis(200));
    renewed.get("/leaf/77").unwrap();
    probe.segment_of("Entry", "/leaf/77").unwrap();
    let mut ended = probe.stop().unwrap();
    ended.segments.retain(|segment| segment.service != "renewed");
    all_is_told(&records, &ended);
}
