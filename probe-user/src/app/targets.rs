//! The targets thread: which processes are traced, and what is attached for them.

mod anew;
mod binary;
mod hold;
mod hooked;
mod reload;
mod sampling;
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

use base64::{Engine as _, engine::general_purpose::STANDARD};
use probe_common::{
    limits::NAME_BASE64_MAX,
    loss::LossReason,
    target::{
        TARGET_COUNTS_CALLED, TARGET_COUNTS_SERVED, TARGET_KEEP_PATHS, TARGET_NEEDS_VERDICT,
        TARGET_PROPAGATE_SW8, TARGET_PROPAGATE_W3C, TARGET_SAMPLES, TargetInfo,
    },
};
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use self::{
    binary::{Binaries, Binary, Refused, Unattached},
    reload::Reload,
    sampling::Sampler,
    unmeant::Unmeant,
};
use super::heap;
use crate::{
    clock,
    config::{Config, Routes},
    discover::{
        container::Place,
        network,
        pod::{Pod, Pods},
        process::{self, FileId, Process},
        select::{Meant, Selection, Surroundings, Wish},
        types::TypeNames,
    },
    export::skywalking::{Registry, management::Properties},
    instrument::go::grpc,
    kernel::{
        Kernel,
        enrol::Enrolled,
        load::LoadError,
        propagation::{SocketMethod, Sockets},
    },
    naming::{self, Known},
    status::{Question, Tracing},
    telemetry::{Loss, Stage, Tally, Telemetry},
    trace::{self, Tracer, segment::Identity},
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
    Exec { pid: u32 },
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
pub(super) struct Types(HashMap<u32, RefCell<TypeNames>>);

impl trace::TypeNames for Types {
    fn type_name(&self, tgid: u32, address: u64) -> Option<String> {
        self.0.get(&tgid)?.borrow_mut().name(address)
    }
}

/// A traced process.
struct Target {
    process: Process,
    place: Place,
    pod: Option<Arc<Pod>>,
    identity: Arc<Identity>,
    binary: Arc<Binary>,
    since_ns: u64,
    /// What became of the connections it had; nothing where none is taken over.
    enrolled: Option<Enrolled>,
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
                scope.spawn(move || drop(binary));
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

/// Why a process is traced no longer.
#[derive(Clone, Copy)]
enum End {
    Ended,
    RunsAnother,
    NotMeant,
    /// It is traced anew under its pod's name.
    Renamed,
    /// Somebody is about to write into its file.
    Written,
    Stopping,
}

impl End {
    const fn words(self) -> &'static str {
        match self {
            Self::Ended => "it has ended",
            Self::RunsAnother => "it runs another program now",
            Self::NotMeant => "it is not selected any more",
            Self::Renamed => "its pod is known now, and gives it other names",
            Self::Written => "somebody is about to write into its program's file",
            Self::Stopping => "the probe stops",
        }
    }
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
            is_changed: true,
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
                Ok(Notice::Exec { pid }) => self.on_exec(pid),
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

    fn on_exec(&mut self, pid: u32) {
        self.unmeant.forget(pid);
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
        self.binaries.forget_unused(clock::now_boot_ns());
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
        let key = (process.pid, process.start_ticks);
        if self.refused.contains_key(&key) {
            return Look::Left;
        }
        match self.trace(&process) {
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

    fn trace(&mut self, process: &Process) -> Result<(), Unattached> {
        let binary = self.binaries.attach(&mut self.kernel, process)?;
        let place = Place::of(process.pid);
        let pod = self.surroundings.pods().of(&place);
        let known = Known {
            process,
            place: &place,
            pod: pod.as_deref(),
        };
        let identity = Arc::new(naming::name_target(known, &self.config));
        let load_bias = binary.load_bias(process.pid);
        let info = self.target_info(process, &binary, &identity, load_bias);
        if let Some(types) = binary.type_names(load_bias) {
            self.types
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .0
                .insert(process.pid, RefCell::new(types));
        }
        self.tracer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add_target(process.pid, Arc::clone(&identity));
        if self.propagation.is_some()
            && binary.plan.writes_frames()
            && let Err(error) = self.kernel.start_frame_propagation()
        {
            let error = crate::chain(&error);
            warn!(pid = process.pid, %error, "Requests by HTTP/2 get no header");
        }
        let told = self
            .sampler
            .add(process.pid, &mut self.kernel)
            .and_then(|()| self.kernel.insert_target(process.pid, &info));
        if let Err(error) = told {
            self.forget(process.pid);
            return Err(Refused::new(crate::chain(&error)).into());
        }
        let mut taken_over = None;
        if let Some(method) = self.propagation {
            match self.kernel.enrol(process, sockets(method, &binary)) {
                Ok(enrolled) => {
                    taken_over = Some(enrolled);
                    debug!(
                        pid = process.pid,
                        count = enrolled.sockets,
                        "Open connections enrolled"
                    );
                    if enrolled.refused > 0 {
                        let count = enrolled.refused;
                        warn!(
                            pid = process.pid,
                            count, "Open connections not enrolled: another program has them"
                        );
                    }
                }
                // It has ended meanwhile, and the notice of that is on its way.
                Err(_) if !process.is_current() => {}
                Err(error) => {
                    let error = crate::chain(&error);
                    warn!(
                        pid = process.pid,
                        %error,
                        "Open connections not enrolled, so requests on them get no header: `skyprobe doctor` names the \
                         rights that are missing"
                    );
                }
            }
        }
        if let Some(registry) = &self.registry {
            let mut properties = Properties::of_process(process.pid, "go");
            for (key, value) in known.properties(&self.config) {
                properties.push(key, value);
            }
            registry.register(Arc::clone(&identity), properties);
        }
        if self.config.naming.instance.is_some() && !self.targets.is_empty() && !self.shares_instance {
            self.shares_instance = true;
            warn!(
                instance = identity.instance,
                "Several processes have this one instance name, and SkyWalking takes them for one: leave `--instance` \
                 out, and each has its own"
            );
        }
        let (service, instance) = (&identity.service, &identity.instance);
        info!(pid = process.pid, exe = %process.exe.display(), service, instance, "Process traced");
        let target = Target {
            process: process.clone(),
            place,
            pod,
            identity,
            binary,
            since_ns: clock::now_boot_ns(),
            enrolled: taken_over,
        };
        self.targets.insert(process.pid, target);
        Ok(())
    }

    fn target_info(
        &self,
        process: &Process,
        binary: &Binary,
        identity: &Identity,
        load_bias: Option<u64>,
    ) -> TargetInfo {
        let mut flags = match self.config.routes {
            Routes::Pattern => 0,
            Routes::Path => TARGET_KEEP_PATHS,
        };
        if let Some(method) = self.propagation {
            if self.config.propagate.sw8 {
                flags |= TARGET_PROPAGATE_SW8;
            }
            if self.config.propagate.w3c {
                flags |= TARGET_PROPAGATE_W3C;
            }
            if sockets(method, binary) == Sockets::WithVerdict {
                flags |= TARGET_NEEDS_VERDICT;
            }
        }
        if self.sampler.is_on() {
            flags |= TARGET_SAMPLES;
        }
        if binary.plan.attaches(grpc::COUNT_SERVED) {
            flags |= TARGET_COUNTS_SERVED;
        }
        if binary.plan.attaches(grpc::COUNT_CALLED) {
            flags |= TARGET_COUNTS_CALLED;
        }
        let (service_base64, service_base64_len) = base64_name(&identity.service);
        let (instance_base64, instance_base64_len) = base64_name(&identity.instance);
        TargetInfo {
            offsets: binary.plan.offsets,
            goidgen_address: load_bias
                .and_then(|bias| binary.plan.goidgen?.checked_add(bias))
                .unwrap_or(0),
            grpc_received_at: binary.plan.grpc_received_at.unwrap_or(0),
            network: self.network(process),
            flags,
            service_base64_len,
            instance_base64_len,
            service_base64,
            instance_base64,
        }
    }

    /// The cookie of the process's network namespace; without it no hop over TLS is joined.
    fn network(&self, process: &Process) -> u64 {
        if self.propagation.is_none() {
            return 0;
        }
        network::cookie(process).unwrap_or_else(|error| {
            debug!(pid = process.pid, %error, "Network namespace not known, so no hop over TLS is joined");
            0
        })
    }

    fn let_go(&mut self, pid: u32, why: End) {
        let now_ns = clock::now_boot_ns();
        if let Some(binary) = self.release(pid, why)
            // Else nobody can come who runs it.
            && self.is_open()
        {
            self.binaries.keep(binary, now_ns);
        }
        self.binaries.forget_unused(now_ns);
    }

    /// Takes the hooks out of files that others want to write into. They wait until that is done.
    fn give_back(&mut self) {
        for binary in self.binaries.take_asked_back() {
            let users: Vec<u32> = self
                .targets
                .values()
                .filter(|target| Arc::ptr_eq(&target.binary, &binary))
                .map(|target| target.process.pid)
                .collect();
            for pid in users {
                // It has ended, or has the file by another name, and can be traced again.
                self.release(pid, End::Written);
                self.later.insert(pid);
            }
            self.binaries.detach(binary);
        }
    }

    /// Traces the process no longer; its binary, which detaches if this was the last process that ran it.
    fn release(&mut self, pid: u32, why: End) -> Option<Arc<Binary>> {
        let Target {
            process,
            identity,
            binary,
            ..
        } = self.targets.remove(&pid)?;
        match self.kernel.remove_target(pid) {
            Ok(spans) => self.telemetry.lost(Loss::OpenAtEnd, Tally { segments: 0, spans }),
            Err(error) => {
                let error = crate::chain(&error);
                warn!(pid, %error, "Process not removed from the kernel's table");
            }
        }
        self.sampler.remove(pid, &mut self.kernel);
        self.forget(pid);
        if let Some(registry) = &self.registry {
            registry.unregister(&identity);
        }
        let why = why.words();
        info!(pid, exe = %process.exe.display(), service = identity.service, why, "Process let go");
        Some(binary)
    }

    fn forget(&self, pid: u32) {
        let now_ns = clock::now_boot_ns();
        self.tracer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove_target(pid, now_ns);
        self.types
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .remove(&pid);
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

/// Where the sockets of the binary's processes belong.
fn sockets(method: SocketMethod, binary: &Binary) -> Sockets {
    if method.receive_verdict && binary.plan.may_ask_fionread {
        Sockets::WithVerdict
    } else {
        Sockets::Plain
    }
}

/// A name as `sw8` carries it. Names are cut to OAP's limits before, so it fits.
fn base64_name(name: &str) -> ([u8; NAME_BASE64_MAX], u16) {
    let mut bytes = [0; NAME_BASE64_MAX];
    let len = STANDARD.encode_slice(name, &mut bytes).unwrap_or(0);
    (bytes, u16::try_from(len).unwrap_or(0))
}
