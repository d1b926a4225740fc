//! The targets thread: which processes are traced, and what is attached for them.

mod anew;
mod binary;
mod hold;
mod hooked;
mod reload;
mod sampling;
mod target;
mod tell;
mod unmeant;

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use probe_common::loss::LossReason;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use self::{
    binary::{Binaries, Binary, Unattached},
    reload::Reload,
    sampling::Sampler,
    target::{End, Target},
    unmeant::Unmeant,
};
use super::heap;
use crate::{
    clock,
    config::Config,
    discover::{
        pod::{Knowledge, Pods},
        process::{self, FileId, Process},
        select::{Meant, Selection, Surroundings, Wish},
        types::TypeNames,
    },
    export::skywalking::Registry,
    kernel::{Kernel, load::LoadError, propagation::SocketMethod},
    naming,
    status::{Question, Tracing},
    telemetry::{Stage, Telemetry},
    trace::{self, Tracer},
};

/// How often the targets are looked at, and all processes where a port decides, that may be listened on by now.
const LOOK_INTERVAL_NS: u64 = 2_000_000_000;
/// How often all processes are looked at where the kernel tells of each start: for a fork of a program that is meant,
/// which is no start.
const LIST_EVERY_LOOKS: u32 = 15;

/// Files of which it is remembered that they are no Go programs. Beyond, it is said once more.
const NOT_GO_MAX: usize = 10_000;

/// What the targets thread is told.
#[derive(Debug)]
pub(super) enum Notice {
    /// Somebody wants to know what is traced.
    Tell(Question, oneshot::Sender<Tracing>),
    /// Pods have come, gone or changed.
    Pods,
    /// The configuration file is to be read anew.
    Reload,
    /// A process runs another program now.
    Exec {
        pid: u32,
        /// By the boot clock.
        time_ns: u64,
    },
    /// A process's first thread has ended.
    Exit { pid: u32 },
    /// Somebody wants to write into a file that is held.
    Written,
    /// Let everything go and end.
    Stop,
}

/// How the start went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// Processes traced.
    pub(super) targets: usize,
    /// Binaries attached to.
    pub(super) binaries: usize,
    /// Hooks in place.
    pub(super) sites: usize,
    /// Processes that were meant, and cannot be traced; why is in the log.
    pub(super) refused: usize,
    /// Whether outgoing requests get a header, in words.
    pub(super) propagation: String,
}

/// Why the start came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("list the processes")]
    List(#[source] std::io::Error),
    #[error("process {pid} cannot be traced: {reason}")]
    Refused { pid: u32, reason: String },
    #[error("process {pid} ended before it was attached")]
    Gone { pid: u32 },
}

/// The names of the types of each target's program.
pub(super) type SharedTypes = Arc<Mutex<Types>>;

/// By process.
#[derive(Default)]
pub(super) struct Types {
    names: HashMap<u32, RefCell<TypeNames>>,
    /// Processes that were let go, and since when: records of theirs may still be in the ring.
    leaving: Vec<(u64, u32)>,
}

/// Longer than the ring ever takes to be emptied.
const LEAVING_NS: u64 = 10_000_000_000;

impl Types {
    fn insert(&mut self, tgid: u32, names: TypeNames) {
        self.leaving.retain(|(_, leaving)| *leaving != tgid);
        self.names.insert(tgid, RefCell::new(names));
    }

    fn remove(&mut self, tgid: u32, now_ns: u64) {
        if self.names.contains_key(&tgid) {
            self.leaving.push((now_ns, tgid));
        }
    }

    /// Forgets who was let go some time ago.
    fn sweep(&mut self, now_ns: u64) {
        let Self { names, leaving } = self;
        leaving.retain(|(since_ns, tgid)| {
            let stays = now_ns < since_ns.saturating_add(LEAVING_NS);
            if !stays {
                names.remove(tgid);
            }
            stays
        });
    }
}

impl trace::TypeNames for Types {
    fn type_name(&self, tgid: u32, address: u64) -> Option<String> {
        self.names.get(&tgid)?.borrow_mut().name(address)
    }
}

/// What is still attached when nothing is traced any more. Detaching takes its time, and the account need not wait.
pub(super) struct Attached {
    kernel: Kernel,
    binaries: Vec<Arc<Binary>>,
}

impl Attached {
    /// What the kernel side has lost; no more will be.
    pub(super) fn losses(&self) -> Vec<(LossReason, u64)> {
        self.kernel.losses()
    }

    pub(super) fn detach(self) {
        // Mostly waiting, so all wait at once.
        thread::scope(|scope| {
            for binary in self.binaries {
                // Where there can be no further thread, it has gone with what was to drop it.
                let _ = thread::Builder::new().spawn_scoped(scope, move || drop(binary));
            }
        });
    }
}

/// What becomes of a process that is looked at.
enum Look {
    Traced,
    /// Not selected, or no longer there.
    Left,
    Gone,
    /// It is to be traced, and cannot be at the moment.
    Later,
    Refused(Refusal),
}

/// A process that is meant and cannot be traced.
#[derive(Clone)]
struct Refusal {
    process: Process,
    reason: String,
}

impl Refusal {
    fn log(&self) {
        let Self { process, reason } = self;
        warn!(pid = process.pid, exe = %process.exe.display(), %reason, "Process not traced");
    }
}

/// The traced processes, and what is attached for them.
pub(super) struct Targets {
    kernel: Kernel,
    selection: Selection,
    surroundings: Surroundings,
    config: Arc<Config>,
    reload: Reload,
    tracer: Arc<Mutex<Tracer>>,
    types: SharedTypes,
    registry: Option<Registry>,
    telemetry: Arc<Telemetry>,
    binaries: Binaries,
    sampler: Sampler,
    targets: HashMap<u32, Target>,
    /// Processes that were refused, by start: they are not asked about again. With the refusal where it was told.
    refused: HashMap<(u32, u64), Option<Refusal>>,
    /// Files that are said to be no Go programs. A shell script may start the same one a hundred times a second.
    not_go: HashSet<FileId>,
    unmeant: Unmeant,
    looks: u32,
    /// What is said of processes has changed since all were looked at.
    is_changed: bool,
    /// How many starts and ends went unseen.
    unnoticed: u64,
    /// Processes to look at again.
    later: HashSet<u32>,
    /// Whether it has been said that the one instance name stands for several processes.
    shares_instance: bool,
    /// How requests get their headers, where they do.
    propagation: Option<SocketMethod>,
    /// The same for people: the headers, or why there are none.
    propagation_words: String,
}

/// Who is meant, and what of their programs was read before anything was attached.
pub(super) struct Ahead {
    selection: Selection,
    surroundings: Surroundings,
    binaries: Binaries,
}

impl Ahead {
    /// Reads the programs of the processes that are meant, as far as they are there already.
    pub(super) fn read(selection: Selection, pods: Pods, config: &Config) -> Self {
        let mut surroundings = Surroundings::new(pods);
        let mut binaries = Binaries::new(config.grpc_messages);
        // Without a list, the start says why.
        for process in selected(&selection, &mut surroundings).unwrap_or_default() {
            binaries.read_ahead(&process);
        }
        Self {
            selection,
            surroundings,
            binaries,
        }
    }
}

impl Targets {
    pub(super) fn new(
        kernel: Kernel,
        ahead: Ahead,
        config: Arc<Config>,
        tracer: Arc<Mutex<Tracer>>,
        registry: Option<Registry>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let Ahead {
            selection,
            surroundings,
            binaries,
        } = ahead;
        let sampler = Sampler::new(config.sampling.clone(), Arc::clone(&telemetry));
        let is_changed = surroundings.pods().knowledge() != Knowledge::Off;
        Self {
            kernel,
            selection,
            surroundings,
            binaries,
            reload: Reload::new(config.file.clone()),
            config,
            tracer,
            types: SharedTypes::default(),
            registry,
            telemetry,
            sampler,
            targets: HashMap::new(),
            refused: HashMap::new(),
            not_go: HashSet::new(),
            unmeant: Unmeant::default(),
            looks: 0,
            // Who waits for its pod is looked at again soon.
            is_changed,
            unnoticed: 0,
            later: HashSet::new(),
            shares_instance: false,
            propagation: None,
            propagation_words: String::new(),
        }
    }

    pub(super) fn types(&self) -> SharedTypes {
        Arc::clone(&self.types)
    }

    /// Attaches to what is there, says that it is ready, and follows what comes and goes. Traces nothing any more
    /// when it returns, and gives back what is to be detached.
    pub(super) fn run(
        mut self,
        notices: &Receiver<Notice>,
        ready: oneshot::Sender<Result<Ready, TargetsError>>,
        ended: oneshot::Sender<()>,
    ) -> Attached {
        let telemetry = Arc::clone(&self.telemetry);
        let _alive = telemetry.vitals().live(Stage::Targets);
        let started = self.start();
        let failed = started.is_err();
        let _ = ready.send(started);
        heap::give_back();
        if !failed {
            self.follow(notices, ended);
        }
        let pids: Vec<u32> = self.targets.keys().copied().collect();
        let release = |pid| self.release(pid, End::Stopping);
        let mut binaries: Vec<_> = pids.into_iter().filter_map(release).collect();
        binaries.extend(self.binaries.take_lingering());
        Attached {
            kernel: self.kernel,
            binaries,
        }
    }

    fn follow(&mut self, notices: &Receiver<Notice>, ended: oneshot::Sender<()>) {
        let mut ended = Some(ended);
        let mut next_look_ns = clock::now_boot_ns() + LOOK_INTERVAL_NS;
        loop {
            // By the clock and not by silence: on a busy machine programs start all the time.
            let wait_ns = next_look_ns.saturating_sub(clock::now_boot_ns());
            let notice = notices.recv_timeout(Duration::from_nanos(wait_ns));
            self.telemetry.vitals().beat(Stage::Targets);
            self.kernel.forward_logs();
            match notice {
                Ok(Notice::Exec { pid, time_ns }) => self.on_exec(pid, time_ns),
                Ok(Notice::Exit { pid }) => self.on_exit(pid),
                Ok(Notice::Written) => self.give_back(),
                Ok(Notice::Tell(question, answer)) => {
                    // Who has asked may be tired of waiting.
                    let _ = answer.send(self.tell(question));
                }
                Ok(Notice::Pods) => self.on_pods(),
                Ok(Notice::Reload) => self.reload(),
                Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.look_around();
                    next_look_ns = clock::now_boot_ns() + LOOK_INTERVAL_NS;
                }
            }
            if self.binaries.has_read() {
                heap::give_back();
            }
            if self.targets.is_empty()
                && self.later.is_empty()
                && !self.is_open()
                && let Some(ended) = ended.take()
            {
                let _ = ended.send(());
            }
        }
    }

    fn start(&mut self) -> Result<Ready, TargetsError> {
        // First, so that no start falls between the look around and the first notice.
        self.kernel.follow_processes()?;
        let selected = selected(&self.selection, &mut self.surroundings).map_err(TargetsError::List)?;
        // Mostly done already.
        for process in &selected {
            self.binaries.read_ahead(process);
        }
        self.kernel
            .load_ahead(self.binaries.sites_ahead(), !self.config.propagate.is_off());
        self.sampler.start(&mut self.kernel);
        let propagation = self.start_propagation();
        self.propagation_words.clone_from(&propagation);
        let telemetry = &self.telemetry;
        // All are attached before the first is traced: a call between two of them would else be seen from one side
        // only, and draw a user where a service is. They stay attached as long as this lives.
        let attach = |process| {
            telemetry.vitals().beat(Stage::Targets);
            self.binaries.attach(&mut self.kernel, process).ok()
        };
        let attached: Vec<_> = selected.iter().filter_map(attach).collect();
        let mut refused = Vec::new();
        let mut only = None;
        for Process { pid, .. } in selected {
            match self.look_at(pid) {
                Look::Traced | Look::Left | Look::Later => {}
                Look::Gone => only = Some(TargetsError::Gone { pid }),
                Look::Refused(refusal) => {
                    only = Some(TargetsError::Refused {
                        pid,
                        reason: refusal.reason.clone(),
                    });
                    refused.push(refusal);
                }
            }
        }
        drop(attached);
        self.binaries.end_start();
        if let Some(gone) = self
            .selection
            .processes()
            .iter()
            .find(|process| !process.is_current())
        {
            only = Some(TargetsError::Gone { pid: gone.pid });
        }
        // With nothing traced and nobody to wait for, the reason is the answer, and not said before it.
        let nothing = self.targets.is_empty() && !self.is_open();
        if nothing && matches!(only, Some(TargetsError::Refused { .. })) {
            refused.pop();
        }
        refused.iter().for_each(Refusal::log);
        match only {
            Some(error) if nothing => Err(error),
            Some(_) | None => Ok(Ready {
                targets: self.targets.len(),
                binaries: self.binaries.attached(),
                sites: self.binaries.sites(),
                refused: refused.len(),
                propagation,
            }),
        }
    }

    fn start_propagation(&mut self) -> String {
        if self.config.propagate.is_off() {
            return "off".to_owned();
        }
        match self.kernel.start_propagation() {
            Ok(method) => {
                debug!(
                    receive_verdict = method.receive_verdict,
                    "Propagation by socket is on"
                );
                self.propagation = Some(method);
                let mut headers = Vec::new();
                if self.config.propagate.sw8 {
                    headers.push("sw8");
                }
                if self.config.propagate.w3c {
                    headers.push("traceparent");
                }
                headers.join(" and ")
            }
            Err(error) => {
                let error = crate::chain(&error);
                warn!(%error, "Propagation is off: outgoing requests get no header");
                format!("off ({error})")
            }
        }
    }

    fn on_exec(&mut self, pid: u32, time_ns: u64) {
        // Where one program starts another in its place at once, as `nohup` does, the first notice finds the second one
        // running.
        let is_known = |target: &Target| target.looked_ns > time_ns;
        if self.targets.get(&pid).is_some_and(is_known) {
            return;
        }
        self.unmeant.forget(pid);
        // What was refused is another program: an entry point's shell, as a rule.
        self.refused.retain(|(refused, _), _| *refused != pid);
        self.let_go(pid, End::RunsAnother);
        self.surroundings.begin_look();
        self.log_look(pid);
    }

    fn on_exit(&mut self, pid: u32) {
        // The first thread may go before the others do: a Go program without its first thread still serves.
        if self
            .targets
            .get(&pid)
            .is_some_and(|target| !target.process.is_current())
        {
            self.let_go(pid, End::Ended);
        }
    }

    fn look_around(&mut self) {
        let unnoticed_before = self.unnoticed;
        self.count_losses();
        self.sampler.look(&mut self.kernel);
        self.give_back();
        let gone: Vec<u32> = self
            .targets
            .values()
            .filter(|target| !target.process.is_current())
            .map(|t| t.process.pid)
            .collect();
        for pid in gone {
            self.let_go(pid, End::Ended);
        }
        let now_ns = clock::now_boot_ns();
        self.binaries.forget_unused(now_ns);
        self.types
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sweep(now_ns);
        self.surroundings.begin_look();
        self.look_at_late_ones();
        if self.reload.is_due() {
            self.reload();
        }
        if !self.is_open() {
            return;
        }
        self.looks += 1;
        let by_port = self.selection.depends_on_ports();
        if by_port && self.selection.excludes() {
            self.reselect(|meant| meant == Meant::Excluded);
        }
        let anew = by_port || self.is_changed || self.unnoticed > unnoticed_before;
        if !anew && !self.looks.is_multiple_of(LIST_EVERY_LOOKS) {
            return;
        }
        if anew {
            self.unmeant.clear();
        }
        self.is_changed = false;
        let Ok(processes) = process::list() else { return };
        let mut seen = HashSet::new();
        for entry in processes {
            let pid = entry.pid;
            seen.insert(pid);
            if self.targets.contains_key(&pid) || self.unmeant.knows(entry) {
                continue;
            }
            match self.look_at(pid) {
                Look::Traced | Look::Gone | Look::Later => {}
                Look::Left => self.unmeant.note(entry),
                Look::Refused(refusal) => {
                    refusal.log();
                    self.unmeant.note(entry);
                }
            }
        }
        self.refused.retain(|(pid, _), _| seen.contains(pid));
        self.unmeant.retain(|pid| seen.contains(&pid));
        self.surroundings.retain(|pid| seen.contains(&pid));
    }

    fn count_losses(&mut self) {
        for (reason, count) in self.kernel.losses() {
            self.telemetry.kernel_lost(reason, count);
            if reason == LossReason::ProcessUnnoticed {
                self.unnoticed = count;
            }
        }
    }

    fn log_look(&mut self, pid: u32) {
        if let Look::Refused(refusal) = self.look_at(pid) {
            refusal.log();
        }
    }

    /// Traces the process if it is meant and can be.
    fn look_at(&mut self, pid: u32) -> Look {
        self.telemetry.vitals().beat(Stage::Targets);
        let looked_ns = clock::now_boot_ns();
        let process = match Process::read(pid) {
            Ok(Some(process)) => process,
            Ok(None) => return Look::Left,
            // Kernel threads and threads: nobody meant them.
            Err(_) => return Look::Left,
        };
        let wish = match self.selection.judge(&process, &mut self.surroundings) {
            Meant::Yes(wish) => wish,
            Meant::No | Meant::Excluded => return Look::Left,
            Meant::NotYet => {
                self.later.insert(pid);
                return Look::Later;
            }
        };
        if naming::asks_container(&self.config) && self.surroundings.waits_for_container(&process) {
            self.later.insert(pid);
            return Look::Later;
        }
        let key = (process.pid, process.start_ticks);
        if self.refused.contains_key(&key) {
            return Look::Left;
        }
        match self.trace(&process, looked_ns) {
            Ok(()) => Look::Traced,
            Err(_) if !process.is_current() => Look::Gone,
            Err(Unattached::Later) => {
                self.later.insert(pid);
                Look::Later
            }
            Err(Unattached::Refused(reason)) => {
                self.refused.insert(key, None);
                match wish {
                    // In a pod and in a unit are other programs, too.
                    Wish::Kind if reason.is_not_go => return Look::Left,
                    Wish::Kind | Wish::Named | Wish::Pid => {}
                }
                let refusal = Refusal {
                    process,
                    reason: reason.text.clone(),
                };
                self.refused.insert(key, Some(refusal.clone()));
                if reason.is_not_go && wish < Wish::Pid && !self.note_not_go(refusal.process.exe_id) {
                    return Look::Left;
                }
                Look::Refused(refusal)
            }
        }
    }

    /// Whether it is news that this file is no Go program.
    fn note_not_go(&mut self, file: FileId) -> bool {
        if self.not_go.len() >= NOT_GO_MAX {
            self.not_go.clear();
        }
        self.not_go.insert(file)
    }
}

/// The processes that are meant.
fn selected(selection: &Selection, surroundings: &mut Surroundings) -> std::io::Result<Vec<Process>> {
    surroundings.begin_look();
    let selected = process::list()?.filter_map(|entry| {
        let process = Process::read(entry.pid).ok()??;
        let meant = selection.judge(&process, surroundings);
        matches!(meant, Meant::Yes(_)).then_some(process)
    });
    Ok(selected.collect())
}
