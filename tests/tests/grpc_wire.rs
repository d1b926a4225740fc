//! What goes over the wire between a traced client of grpc-go and its server, byte by byte: what the program has written
//! against what a proxy has got, taken apart by an implementation of HTTP/2 that is neither Go's nor ours.

#![expect(
    clippy::indexing_slicing,
    reason = "a test panics where it fails; clippy knows only test functions"
)]

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tests::{
    http2::literal,
    needs_rpc,
    probe::{Ended, Probe},
    rpc,
    scene::{FRONT_IDS, stop_with},
    skip::skip,
    target::Service,
    truth,
    wire::{Exchange, Pace, Recorder},
};
use xtask::peers;

/// As `targets/python/frames.py` prints it.
#[derive(Clone, Debug, Deserialize)]
struct Frame {
    at: usize,
    #[serde(rename = "type")]
    kind: String,
    flags: Vec<String>,
    stream: u32,
    length: usize,
    payload: String,
    /// Of a header block's last frame: the fields of all of it, and the table that the sender has come to.
    headers: Option<Vec<(String, String)>>,
    table: Option<String>,
}

/// A reader of frames.
struct Reader {
    packages: PathBuf,
}

impl Reader {
    fn frames(&self, file: &Path) -> Result<Vec<Frame>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/python/frames.py");
        let output = Command::new("python3")
            .arg(script)
            .arg(file)
            .env("PYTHONPATH", &self.packages)
            .output()?;
        ensure!(
            output.status.success(),
            "{}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = String::from_utf8(output.stdout)?;
        lines
            .lines()
            .map(|line| serde_json::from_str(line).context("a line of frames.py"))
            .collect()
    }
}

/// A front that is recorded, and a back that it reaches by way of a proxy.
struct Scene {
    front: Service,
    back: Service,
    recorder: Recorder,
    folder: TempDir,
}

impl Scene {
    fn start(pace: Pace) -> Result<Self> {
        let program = rpc::program()?;
        let back = Service::start(&program, "back", 2 * FRONT_IDS, None)?;
        let recorder = Recorder::with_pace(&back.addresses.rpc, pace)?;
        let folder = tempfile::tempdir()?;
        let next = back.printed.replace(&back.addresses.rpc, recorder.host());
        let mut command = Command::new(program);
        command
            .args(["serve", "-name", "front", "-first-id", &FRONT_IDS.to_string()])
            .args(["-next", &next, "-record"])
            .arg(folder.path())
            .env("SW_AGENT_NAME", "front");
        let front = Service::spawn(&mut command)?;
        Ok(Self {
            front,
            back,
            recorder,
            folder,
        })
    }

    fn ask(&self, ids: impl IntoIterator<Item = u64>) -> Result<()> {
        for id in ids {
            let response = self.front.get(&format!("/parcels/{id}"))?;
            ensure!(response.status == 200, "{id}: {}", response.text());
        }
        Ok(())
    }

    /// What the only connection has carried, and what the program has got of it, once nothing is on its way any more:
    /// windows are opened after the last answer, too.
    fn exchange(&self) -> Result<(Exchange, Vec<u8>)> {
        let mut all = Exchange::default();
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(200));
            let new = self.recorder.take();
            ensure!(new.len() <= 1, "{} connections", new.len());
            let got = fs::read(self.folder.path().join("got-0"))?;
            if new.is_empty() && got.len() == all.answered.len() {
                return Ok((all, got));
            }
            for exchange in new {
                all.sent.extend(exchange.sent);
                all.answered.extend(exchange.answered);
            }
        }
        anyhow::bail!("the connection does not come to rest")
    }

    /// What the program has sent so far on its only connection.
    fn sent(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.folder.path().join("sent-0"))?)
    }
}

/// Plays calls before the probe, under it and after it, and compares.
fn play(seed: u64, arguments: &[&str], names: &[&str]) -> Result<()> {
    let reader = match peers::python_http2() {
        Ok(packages) => Reader { packages },
        Err(error) => {
            skip(&format!("{error:#}"));
            return Ok(());
        }
    };
    let scene = Scene::start(Pace::Stalling(seed))?;
    scene.ask([seed])?;
    let attached = scene.sent()?.len();
    let pids = [scene.front.target.pid(), scene.back.target.pid()];
    let probe = Probe::of_pids(&pids, arguments)?;
    scene.ask(seed + 1..=seed + 4)?;
    let mut records = scene.front.records()?;
    records.append(&mut scene.back.records()?);
    let traced = |record: &truth::Record| {
        // The number of a call that was made before is below those of the others.
        record.id > FRONT_IDS + 60 || (record.id < FRONT_IDS && record.id > seed)
    };
    records.retain(traced);
    let ended = stop_with(probe, records.len())?;
    let detached = scene.sent()?.len();
    scene.ask([seed + 5])?;

    let account = truth::join(&records, &ended.segments, true);
    let total = account.total();
    ensure!(
        (total.found, account.invented, total.wrong_facts) == (total.made, 0, 0),
        "{account}"
    );
    ensure!(
        (total.parents.orphan, total.parents.wrong, total.references.wrong) == (0, 0, 0),
        "{account}"
    );

    let (exchange, got) = scene.exchange()?;
    let sent = scene.sent()?;
    let file = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = scene.folder.path().join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let before = reader.frames(&file("before", &sent)?)?;
    let after = reader.frames(&file("after", &exchange.sent)?)?;
    ensure!(
        before.len() == after.len(),
        "{} and {} frames",
        before.len(),
        after.len()
    );
    let mut changed = Changed::default();
    for (before, after) in before.iter().zip(&after) {
        let under_probe = (attached..detached).contains(&before.at);
        let raw = (&sent[payload(before)], &exchange.sent[payload(after)]);
        changed
            .compare((before, raw.0), (after, raw.1), under_probe.then_some(names))
            .with_context(|| format!("{before:?} became {after:?}"))?;
    }
    changed.account_for(&ended)?;

    // Nobody touches what the server says.
    ensure!(got == exchange.answered, "the server's bytes have changed");
    let answers = reader.frames(&file("answers", &got)?)?;
    let ours = answers.iter().flat_map(|frame| frame.headers.iter().flatten());
    ensure!(
        ours.filter(|(name, _)| name == "sw8").count() == 0,
        "the server has sent sw8"
    );
    Ok(())
}

fn payload(frame: &Frame) -> std::ops::Range<usize> {
    let begin = frame.at + 9;
    begin..begin + frame.length
}

/// The longest payload of a frame.
const PAYLOAD_MAX: usize = 16_384;

/// Request headers, by what became of them.
#[derive(Default)]
struct Changed {
    with_fields: u64,
    /// They would not have fitted any more.
    too_long: u64,
    /// Their block ends in another frame.
    continued: u64,
    /// They could have got fields, but for the border of a message within them.
    left_alone: u64,
    values: HashSet<String>,
}

impl Changed {
    /// Compares a frame as it was written and as it has come. `names`: the fields that it may have got.
    fn compare(
        &mut self,
        (before, written): (&Frame, &[u8]),
        (after, come): (&Frame, &[u8]),
        names: Option<&[&str]>,
    ) -> Result<()> {
        let same = |frame: &Frame| (frame.kind.clone(), frame.flags.clone(), frame.stream);
        ensure!(same(before) == same(after), "another frame");
        // Whoever reads the next block reads it by the same table.
        ensure!(before.table == after.table, "another table");
        let is_request = before.kind == "HeadersFrame";
        if written == come {
            ensure!(
                before.payload == after.payload && before.headers == after.headers,
                "read in two ways"
            );
            let ends = before.flags.iter().any(|flag| flag == "END_HEADERS");
            match names {
                Some(_) if is_request && !ends => self.continued += 1,
                // A value has some 280 bytes.
                Some(_) if is_request && before.length > PAYLOAD_MAX - 400 => self.too_long += 1,
                Some(_) if is_request => self.left_alone += 1,
                Some(_) | None => {}
            }
            return Ok(());
        }
        let names = names.context("changed without a probe")?;
        ensure!(is_request, "changed");
        let added = come.strip_prefix(written).context("changed, and not by adding")?;
        let (Some(before), Some(after)) = (&before.headers, &after.headers) else {
            anyhow::bail!("fields in the middle of a block");
        };
        let fields = after.strip_prefix(before.as_slice()).context("other fields")?;
        let told: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(told == names, "{told:?} was added");
        ensure!(
            added == {
                let literals = fields
                    .iter()
                    .map(|(name, value)| literal(name.as_bytes(), value.as_bytes()));
                literals.collect::<Vec<_>>().concat()
            },
            "not literals that no table remembers"
        );
        ensure!(come.len() <= PAYLOAD_MAX, "longer than a frame may be");
        for (_, value) in fields {
            ensure!(self.values.insert(value.clone()), "{value} twice");
        }
        self.with_fields += 1;
        Ok(())
    }

    /// What has no fields was counted.
    fn account_for(&self, ended: &Ended) -> Result<()> {
        let lost = |reason: &str| -> u64 {
            let line = ended.stderr.lines().find(|line| line.contains(reason));
            line.and_then(|line| line.split_whitespace().rev().nth(1)?.parse().ok())
                .unwrap_or(0)
        };
        let told = format!(
            "{} got fields, {} were too long, {} went on, {} were left alone\n{}",
            self.with_fields, self.too_long, self.continued, self.left_alone, ended.stderr
        );
        ensure!(self.with_fields > 100, "{told}");
        // All sizes have come up.
        ensure!(self.too_long > 0 && self.continued > 0, "{told}");
        // One that is too long may also lie across two messages, which is seen first.
        let (too_long, refused) = (lost("propagation_too_long"), lost("propagation_refused"));
        ensure!(too_long <= self.too_long, "{told}");
        let unchanged = self.too_long + self.continued + self.left_alone;
        ensure!(too_long + refused == unchanged, "{told}");
        // Frames of a client are never lost sight of, once they are seen.
        ensure!(!ended.stderr.contains("propagation_frames_lost"), "{told}");
        Ok(())
    }
}

#[test]
fn nothing_changes_but_for_one_field_of_each_request() {
    needs_rpc!();
    play(100, &[], &["sw8"]).unwrap();
}

#[test]
fn or_two_if_both_are_asked_for() {
    needs_rpc!();
    play(200, &["--propagate", "sw8,w3c"], &["sw8", "traceparent"]).unwrap();
}
