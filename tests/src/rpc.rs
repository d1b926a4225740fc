//! Three services of `targets/go/grpc`: HTTP comes to the front, which asks the middle by gRPC, which asks the back.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    client,
    probe::{Ended, Probe},
    scene::{FRONT_IDS, stop_with},
    target::{Go, GoBuild, Service},
    truth::{self, Account, Record, Side},
};

const MIDDLE_IDS: u64 = 2 * FRONT_IDS;
const BACK_IDS: u64 = 3 * FRONT_IDS;

/// Whether headers go out in gRPC calls.
pub const PROPAGATED: bool = true;

/// What a load asks the front for: all shapes that a request can be answered to whatever becomes of its calls, some more
/// often than others.
pub const MIX: &str = "\
    sync,sync,sync,sync,sync,sync,upload,upload,upload,upload,download,download,download,download,\
    chat,chat,chat,chat,chat,chat,chain,chain,chain,chain,chain,chain,streams,streams,streams,\
    bare,bare,values,values,twice,twice,web,web,web,web,unix,dns,passthrough,brief,brief,handler,handler,patient,baggage,secret,secret,\
    fanout_ctx,fanout_ctx,fanout,fanout,pool_ctx,pool_ctx,pool,pool,many,outlive,outlive,\
    behind,behind,behind_secret,cut,duplex,failed,failed,retry,retry,tired,late,abort,leave,overrun,linger,nobody,nowhere,overlong";

/// Nothing new for so long: nothing is on its way.
const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// How the program is built.
pub fn build() -> GoBuild {
    GoBuild::new("grpc")
}

/// Why the program cannot be built here, if so: it is the only one that is made of modules.
pub fn obstacle() -> Option<String> {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    let obstacle = OBSTACLE.get_or_init(|| {
        let fetched = Go::system().and_then(|go| build().fetch(&go));
        fetched.err().map(|error| format!("{error:#}"))
    });
    obstacle.clone()
}

/// Ends the test with a printed reason where nothing can be traced, or the program cannot be built.
#[macro_export]
macro_rules! needs_rpc {
    () => {
        $crate::needs_probe!();
        if let Some(reason) = $crate::rpc::obstacle() {
            $crate::skip::skip(&reason);
            return;
        }
    };
}

/// The program `grpc`, built once with the Go that is at hand.
pub fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.clone());
    }
    let program = build().build(&Go::system()?)?;
    Ok(PROGRAM.get_or_init(|| program).clone())
}

#[derive(Debug)]
pub struct Row {
    pub front: Service,
    pub middle: Service,
    pub back: Service,
}

impl Row {
    pub fn start() -> Result<Self> {
        Self::named(["front", "middle", "back"])
    }

    pub fn named(names: [&str; 3]) -> Result<Self> {
        Self::of(&program()?, names)
    }

    /// Of another build of the program.
    pub fn of(program: &Path, [front, middle, back]: [&str; 3]) -> Result<Self> {
        let back = Service::start(program, back, BACK_IDS, None)?;
        let middle = Service::start(program, middle, MIDDLE_IDS, Some(&back))?;
        let front = Service::start(program, front, FRONT_IDS, Some(&middle))?;
        Ok(Self { front, middle, back })
    }

    pub fn pids(&self) -> [u32; 3] {
        [&self.front, &self.middle, &self.back].map(|service| service.target.pid())
    }

    /// All under the probe.
    pub fn trace(&self, arguments: &[&str]) -> Result<Probe> {
        Probe::of_pids(&self.pids(), arguments)
    }

    /// Asks the front for a shape by a number of the caller's.
    pub fn ask(&self, shape: &str, id: u64) -> Result<()> {
        let response: client::Response = self.front.get(&format!("/{shape}/{id}"))?;
        ensure!(response.status == 200, "{shape}: {}", response.text());
        Ok(())
    }

    /// What all have done, once nothing is on its way any more: a call that its client has given up may only just
    /// have come to its server.
    pub fn records(&self) -> Result<Vec<Record>> {
        let mut before = None;
        loop {
            let mut records = Vec::new();
            for service in [&self.front, &self.middle, &self.back] {
                records.append(&mut service.records()?);
            }
            if before == Some(records.len()) {
                return Ok(records);
            }
            before = Some(records.len());
            thread::sleep(SETTLED_AFTER);
        }
    }

    /// The calls that the front has made for the request `id`, in the order in which they ended.
    pub fn calls_of(&self, id: u64) -> Result<Vec<Record>> {
        let mut records = self.front.records()?;
        records.retain(|record| record.kind == Side::Exit && record.parent == id);
        Ok(records)
    }

    /// Its only call.
    pub fn call_of(&self, id: u64) -> Result<Record> {
        let [call] = <[Record; 1]>::try_from(self.calls_of(id)?)
            .map_err(|calls| anyhow::anyhow!("request {id} made the calls {calls:?}"))?;
        Ok(call)
    }

    /// Waits until the probe has as many spans as the services know of, stops it and compares.
    pub fn judge(&self, probe: Probe, propagated: bool) -> Result<(Account, Ended)> {
        let records = self.records().context("ask for the truth")?;
        let ended = stop_with(probe, records.len())?;
        Ok((truth::join(&records, &ended.segments, propagated), ended))
    }
}

/// Asks for each shape in turn and asserts that the truth finds nothing wrong.
#[track_caller]
#[expect(clippy::unwrap_used, reason = "a test's assertion")]
pub fn check_shapes(shapes: &[&str]) -> Account {
    check_shapes_of(&Row::start().unwrap(), shapes)
}

/// The same of services that run already.
#[track_caller]
#[expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's assertion, and its report"
)]
pub fn check_shapes_of(row: &Row, shapes: &[&str]) -> Account {
    let probe = row.trace(&[]).unwrap();
    let mut id = 0;
    for _ in 0..5 {
        for shape in shapes {
            id += 1;
            row.ask(shape, id).unwrap();
        }
    }
    let (account, ended) = row.judge(probe, PROPAGATED).unwrap();
    println!("{}", ended.stderr);
    check(&account);
    account
}

/// Asserts that all is there and right.
#[track_caller]
#[expect(clippy::print_stdout, reason = "a test's report")]
pub fn check(account: &Account) {
    println!("{account}");
    let total = account.total();
    assert_eq!((total.found, account.invented), (total.made, 0), "{account}");
    assert_eq!(
        (total.wrong_facts, total.parents.wrong, total.references.wrong),
        (0, 0, 0),
        "{account}"
    );
    assert_eq!(
        (total.parents.orphan, total.references.orphan),
        (0, 0),
        "{account}"
    );
    assert!(total.parents.right > 0, "{account}");
}
