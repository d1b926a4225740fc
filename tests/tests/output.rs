//! Where `text` and `json` go when it does not take them: all is counted, and the probe stays its own master.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    fs,
    io::PipeReader,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use tests::{
    client, needs_probe,
    probe::{self, Probe},
    scene::Scene,
};
use xtask::http;

/// A probe of the scene's front, whose output goes into a pipe that nobody has read of yet.
struct Piped {
    child: Child,
    said: tempfile::NamedTempFile,
}

impl Piped {
    fn start(scene: &Scene, arguments: &[&str]) -> (Self, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        let said = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new(probe::binary().unwrap())
            .args(["run", "--export=json", "--pid"])
            .arg(scene.front.target.pid().to_string())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(said.reopen().unwrap())
            .spawn()
            .unwrap();
        let piped = Self { child, said };
        for _ in 0..6000 {
            if piped.said().contains("ready") {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert!(piped.said().contains("ready"), "{}", piped.said());
        (piped, reader)
    }

    fn said(&self) -> String {
        fs::read_to_string(self.said.path()).unwrap()
    }

    /// How it ended, if it does so in time.
    fn wait(&mut self, seconds: u32) -> Option<ExitStatus> {
        for _ in 0..200 * seconds {
            if let Some(ended) = self.child.try_wait().unwrap() {
                return Some(ended);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Spans that were made, exported and lost, by the account at its end.
    fn account(&self) -> [u64; 3] {
        let said = self.said();
        let line = said.lines().find(|line| line.contains(" exported, ")).unwrap();
        let words: Vec<&str> = line.split([' ', ':', ',']).collect();
        let counts = words.array_windows().filter(|[_, what]| what.starts_with("span"));
        let counts: Vec<u64> = counts.map(|[count, _]| count.parse().unwrap()).collect();
        counts.try_into().unwrap()
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_full_disk() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = Probe::of_pids(&[scene.front.target.pid()], &["--output", "/dev/full"]).unwrap();
    scene.ask("sync", 1).unwrap();
    probe
        .wait_for_words("No space left", Duration::from_secs(10))
        .unwrap();
    assert_eq!(scene.ask("sync", 2).unwrap().status, 200);
    let ended = probe.stop().unwrap();
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// As `skyprobe run … | head` does it, under load.
#[test]
fn a_reader_that_has_gone() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let (mut probe, reader) = Piped::start(&scene, &[]);
    // The pipe is filled, so that more waits behind what is being written.
    for id in 1..=400 {
        assert_eq!(scene.ask("leaf", id).unwrap().status, 200);
    }
    thread::sleep(Duration::from_millis(200));
    drop(reader);
    let status = probe.wait(10).expect("nobody reads, yet it goes on");
    assert!(status.success(), "{}", probe.said());
    let [made, exported, lost] = probe.account();
    assert!(made >= 400 && lost > 0, "{}", probe.said());
    assert_eq!(made, exported + lost, "{}", probe.said());
}

/// As a terminal does it after Ctrl-S, or `less`.
#[test]
fn a_reader_that_stands_still() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let address = http::free_address().unwrap().to_string();
    let (mut probe, reader) = Piped::start(&scene, &["--http", &address]);
    for id in 1..=400 {
        assert_eq!(scene.ask("leaf", id).unwrap().status, 200);
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!(client::get(&address, "/healthz").unwrap().status, 200);
    // SAFETY: signals a child that has not been waited for.
    unsafe { libc::kill(i32::try_from(probe.child.id()).unwrap(), libc::SIGTERM) };
    let status = probe.wait(15).expect("nobody reads, and it cannot be stopped");
    assert!(status.success(), "{}", probe.said());
    let [made, exported, lost] = probe.account();
    assert!(made >= 400 && lost > 0, "{}", probe.said());
    assert_eq!(made, exported + lost, "{}", probe.said());
    drop(reader);
}
