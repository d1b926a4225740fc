//! The checks, each in a few words for a table.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use probe_user::kernel::{
    feature::{Kernel, Lockdown, OLDEST},
    load,
    propagation::is_spare,
};
use serde::Deserialize;
use tests::{
    go_http2::Package,
    line,
    probe::{self, Ended, Probe},
    rpc::Row,
    scene::Scene,
    target::Target,
    truth::{Account, Side},
};
use xtask::vm::said::Outcome;

use crate::{clock::clock, text};

/// Looks at one thing.
pub(crate) type Check = fn() -> Result<Finding>;

/// In this order.
pub(crate) const ALL: [(&str, Check); 9] = [
    ("doctor", doctor),
    ("programs", programs),
    ("http1", http1),
    ("bytes", bytes),
    ("http2", http2),
    ("x_net", x_net),
    ("grpc", grpc),
    ("tls", tls),
    ("clock", clock),
];

/// What a check has found.
pub(crate) struct Finding {
    pub(crate) outcome: Outcome,
    pub(crate) says: String,
    pub(crate) detail: String,
}

impl Finding {
    fn works(says: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Works,
            says: says.into(),
            detail: String::new(),
        }
    }

    /// The first line of why, and all of it.
    pub(crate) fn failed(why: String) -> Self {
        Self {
            outcome: Outcome::Failed,
            says: why.lines().next().unwrap_or_default().to_owned(),
            detail: why,
        }
    }
}

#[derive(Deserialize)]
struct Report {
    tracing: bool,
    propagation: bool,
    checks: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    what: String,
    state: String,
    found: String,
}

/// Why the probe has to refuse to work on this kernel, if so, in words that it has to use: then only [`doctor`] is of use.
pub(crate) fn obstacle() -> Option<String> {
    let too_old = |version| version < OLDEST;
    if Kernel::running().version().is_some_and(too_old) {
        return Some(format!("tracing needs Linux {OLDEST}"));
    }
    let forbidden = Lockdown::current() == Lockdown::Confidentiality;
    forbidden.then(|| "forbids the helper".to_owned())
}

/// What the probe itself says of this kernel.
fn doctor() -> Result<Finding> {
    if let Some(obstacle) = obstacle() {
        let output = Command::new(probe::binary()?)
            .args(["run", "--all-go"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(
            !output.status.success() && said.contains(&obstacle) && said.lines().count() == 1,
            "it does not say why in one sentence: {said}"
        );
        return Ok(Finding {
            outcome: Outcome::Lacks,
            says: said.strip_prefix("skyprobe: ").unwrap_or(&said).to_owned(),
            detail: String::new(),
        });
    }
    let output = Command::new(probe::binary()?)
        .args(["doctor", "--json"])
        .output()?;
    let report: Report = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let not_ok: Vec<String> = report
        .checks
        .iter()
        .filter(|told| told.state != "ok")
        .map(|told| format!("{} {}: {}", told.what, told.state, told.found))
        .collect();
    let says = match (report.tracing, report.propagation) {
        (true, true) => "all",
        (true, false) => "traces, sends no headers",
        (false, _) => "nothing works",
    };
    Ok(Finding {
        outcome: match (report.tracing, report.propagation) {
            (true, true) => Outcome::Works,
            (true, false) => Outcome::Lacks,
            (false, _) => Outcome::Failed,
        },
        says: says.to_owned(),
        detail: not_ok.join("\n"),
    })
}

/// Every program loads.
fn programs() -> Result<Finding> {
    let mut object = load::object()?;
    let names: Vec<String> = object.programs().map(|(name, _)| name.to_owned()).collect();
    ensure!(!names.is_empty(), "the kernel object is a stub");
    let refused: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| load::program(&mut object, name).is_err())
        .collect();
    let taken = |name: &str| !refused.contains(&name);
    let (spare, refused): (Vec<&str>, Vec<&str>) = refused.iter().partition(|name| is_spare(name, taken));
    let count = format!("{} of {}", names.len() - spare.len() - refused.len(), names.len());
    if refused.is_empty() {
        return Ok(Finding::works(match spare.as_slice() {
            [] => count,
            spare => format!("{count}, and another way for {}", spare.join(", ")),
        }));
    }
    let mut detail = String::new();
    for name in &refused {
        if let Err(error) = load::program(&mut object, name) {
            detail.push_str(&format!("{name}:\n{:#}\n", anyhow::Error::from(error)));
        }
    }
    Ok(Finding {
        outcome: Outcome::Failed,
        says: format!(
            "{} of {}, not {}",
            names.len() - refused.len(),
            names.len(),
            refused.join(", ")
        ),
        detail,
    })
}

/// The counts of an account; right only if nothing is missing and nothing wrong.
pub(crate) fn judged(account: &Account, ended: &Ended) -> Finding {
    let total = account.total();
    let says = account.sum();
    let whole = total.found == total.made && account.invented == 0 && total.wrong_facts == 0;
    // A goroutine that has moved to another processor before it starts others may number them from a batch that is
    // older than its request: then nothing proves whose they are.
    let unproven = account.shapes.get(&(Side::Exit, "fanout".to_owned()));
    let unproven = unproven.map_or(0, |count| count.parents.orphan);
    let orphans = total.parents.orphan + total.references.orphan - unproven;
    let wrong = total.parents.wrong + total.references.wrong;
    if whole && orphans + wrong == 0 && total.parents.right > 0 && total.references.right > 0 {
        return Finding::works(says);
    }
    Finding {
        outcome: Outcome::Failed,
        says,
        detail: format!("{account}\n{}", ended.stderr),
    }
}

/// Has probes in these while it is there, and none afterwards.
struct Unharmed<'t>(Vec<&'t Target>);

impl Unharmed<'_> {
    fn attached(&self) -> Result<()> {
        for target in &self.0 {
            ensure!(
                text::changed_bytes(target.pid())? > 0,
                "no probe is in the program's code"
            );
        }
        Ok(())
    }

    fn detached(&self) -> Result<()> {
        for target in &self.0 {
            let left = text::changed_bytes(target.pid())?;
            ensure!(
                left == 0,
                "{left} bytes of the program's code are not as they were"
            );
        }
        Ok(())
    }
}

/// What every kind of program that `net_http` is built for can be asked, without clocks.
const SHAPES: [&str; 13] = [
    "leaf",
    "sync",
    "bare",
    "values",
    "chain",
    "twice",
    "post",
    "proxy",
    "fanout_ctx",
    "fanout",
    "pool_ctx",
    "refused",
    "failed",
];
/// What only HTTP/1 can do.
const HTTP1_SHAPES: [&str; 4] = ["chunked", "redirect", "panic", "hijack"];
/// Programs that preempt each other show after some hundreds of requests.
const ROUNDS: u64 = 6;

fn http1() -> Result<Finding> {
    let shapes: Vec<&str> = SHAPES.into_iter().chain(HTTP1_SHAPES).collect();
    scene(&Scene::start()?, &shapes)
}

fn http2() -> Result<Finding> {
    scene(&Package::Standard.scene()?, &SHAPES)
}

fn x_net() -> Result<Finding> {
    scene(&Package::XNet.scene()?, &SHAPES)
}

/// Calls over TLS, both of whose ends are traced.
fn tls() -> Result<Finding> {
    scene(&Scene::start()?, &["tls"])
}

/// Asks for everything a few times, judges, and asks once more when the probe has gone.
fn scene(scene: &Scene, shapes: &[&str]) -> Result<Finding> {
    let targets = Unharmed(vec![&scene.front.target, &scene.back.target]);
    let probe = scene.trace(&[])?;
    targets.attached()?;
    let mut id = 0;
    for _ in 0..ROUNDS {
        for shape in shapes {
            id += 1;
            // Of a handler that panics there is no answer.
            let _answer = scene.ask(shape, id);
        }
    }
    let (account, ended) = scene.judge(probe, true)?;
    targets.detached()?;
    ensure!(
        scene.ask("sync", id + 1)?.status == 200,
        "the program answers no more"
    );
    Ok(judged(&account, &ended))
}

const RPC_SHAPES: [&str; 13] = [
    "sync",
    "upload",
    "download",
    "chat",
    "chain",
    "streams",
    "bare",
    "twice",
    "secret",
    "fanout_ctx",
    "pool_ctx",
    "web",
    "failed",
];

fn grpc() -> Result<Finding> {
    let row = Row::start()?;
    let targets = Unharmed(vec![&row.front.target, &row.middle.target, &row.back.target]);
    let probe: Probe = row.trace(&[])?;
    targets.attached()?;
    let mut id = 0;
    for _ in 0..ROUNDS {
        for shape in RPC_SHAPES {
            id += 1;
            row.ask(shape, id)?;
        }
    }
    let (account, ended) = row.judge(probe, true)?;
    targets.detached()?;
    row.ask("sync", id + 1)?;
    Ok(judged(&account, &ended))
}

/// What is sent is, but for the header, what is sent untraced.
fn bytes() -> Result<Finding> {
    line::check_plain(&["plain", "-seed", "1"]);
    Ok(Finding::works("exact but for the header"))
}
