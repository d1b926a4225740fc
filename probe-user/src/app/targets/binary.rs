//! Binaries attached to, each once however many processes run it.

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    fs, io, iter, mem,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::{debug, info, warn};

use super::{
    hold::Hold,
    hooked::{self, Breakpoints},
};
use crate::{
    clock,
    discover::{
        go::{BinaryError, GoBinary},
        process::{FileId, Process},
        types::{self, TypeNames},
    },
    instrument::{self, OnMissing, Plan, RefusalReason, Site, go::grpc},
    kernel::{
        Kernel,
        attach::{AttachError, Links, Scope},
    },
};

/// A file's content, as far as it can be told from outside: the inode alone may be reused, or rewritten in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Content {
    file: FileId,
    size_bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

/// Whom the hooks of a binary are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whose {
    /// All processes that run this file, which nobody can write into meanwhile.
    Everybody(FileId),
    /// One process, by its start: its file cannot be held, and another process may find something else in it.
    One {
        pid: u32,
        start_ticks: u64,
        file: FileId,
    },
}

/// A binary with its hooks in place. Dropped, it is detached.
pub(super) struct Binary {
    pub(super) plan: Plan,
    program: GoBinary,
    exe: PathBuf,
    /// Where its hooks sit in the file.
    offsets: Vec<u64>,
    links: Links,
    /// Hooks that the kernel would not take.
    pub(super) failed: Vec<AttachError>,
    /// After the links, as fields are dropped in order: the file is given back when nothing of ours is in it.
    holds: Mutex<Vec<(FileId, Hold)>>,
}

/// Why a binary is not traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) text: String,
    pub(super) is_not_go: bool,
    /// It is not the program's fault, and the next process that runs it may have more luck.
    pub(super) may_pass: bool,
}

impl Refused {
    pub(super) fn new(text: String) -> Self {
        Self {
            text,
            is_not_go: false,
            may_pass: false,
        }
    }
}

/// Whether the machine, or the probe's part of it, was short of something.
fn is_short(error: &(dyn Error + 'static)) -> bool {
    const SHORT: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN];
    iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
        .any(|number| SHORT.contains(&number))
}

/// Why there is no binary for a process.
#[derive(Clone, Debug)]
pub(super) enum Unattached {
    Refused(Arc<Refused>),
    /// It may be had at the next look around.
    Later,
}

impl From<Refused> for Unattached {
    fn from(refused: Refused) -> Self {
        Self::Refused(Arc::new(refused))
    }
}

/// How long a binary stays attached that nothing runs any more. A program that is started again is then traced at
/// once; attaching anew would have to wait for the kernel to detach, which takes seconds before Linux 6.6.
const LINGER_NS: u64 = 60_000_000_000;

/// How many binaries may do so.
const LINGERING_MAX: usize = 16;

/// How long a process must have lived to get hooks of its own. Taking them out may take seconds, and processes that come
/// and go faster than that would leave ever more of them behind.
const OWN_HOOKS_AGE: Duration = Duration::from_secs(2);

/// What is being detached.
struct Detaching {
    /// Files whose processes may still have some of the hooks.
    files: Vec<FileId>,
    offsets: Vec<u64>,
    /// Nothing where there could be no further thread: then it is done.
    thread: Option<JoinHandle<()>>,
}

impl Detaching {
    fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// The binaries of all targets.
pub(in crate::app) struct Binaries {
    /// Streams of gRPC have their messages counted.
    grpc_messages: bool,
    attached: HashMap<Whose, Weak<Binary>>,
    /// With the time until which each is kept, the oldest first.
    lingering: VecDeque<(u64, Arc<Binary>)>,
    detaching: Vec<Detaching>,
    /// What was found wanting, so that the next process that runs it is answered at once.
    refused: HashMap<Content, Arc<Refused>>,
    /// Read before they are attached.
    read: HashMap<FileId, Readable>,
    /// Whether one was read since somebody asked.
    has_read: bool,
    /// Whether processes that were there before us have been attached: those that come now may be short-lived.
    has_started: bool,
}

/// Refusals remembered; a host has few programs and many processes.
const REFUSED_MAX: usize = 1_024;

impl Binaries {
    pub(super) fn new(grpc_messages: bool) -> Self {
        Self {
            grpc_messages,
            attached: HashMap::new(),
            lingering: VecDeque::new(),
            detaching: Vec::new(),
            refused: HashMap::new(),
            read: HashMap::new(),
            has_read: false,
            has_started: false,
        }
    }

    /// The binary that `process` runs, attached now if it was not before.
    pub(super) fn attach(
        &mut self,
        kernel: &mut Kernel,
        process: &Process,
    ) -> Result<Arc<Binary>, Unattached> {
        self.detaching.retain(|detaching| !detaching.is_done());
        if let Some(binary) = self.attached_to(process) {
            return binary;
        }
        let content = content(process).map_err(|error| Refused::new(format!("read its program: {error}")))?;
        if let Some(refused) = self.refused.get(&content) {
            return Err(Unattached::Refused(Arc::clone(refused)));
        }
        let read = match self.read.remove(&process.exe_id) {
            Some(read) if !read.hold.is_asked_back() => Ok(read),
            Some(_) | None => {
                self.has_read = true;
                self.read(process)
            }
        };
        let attached = read.map_err(Unattached::from).and_then(|read| {
            if let Some(shared) = self.shared(process, &read)? {
                shared.hold(process.exe_id, read.hold);
                return Ok((Whose::Everybody(process.exe_id), shared));
            }
            let whose = self.whose(process, &read.hold)?;
            let binary = attach(kernel, process, read, whose)?;
            Ok((whose, Arc::new(binary)))
        });
        match attached {
            Ok((whose, binary)) => {
                self.attached.insert(whose, Arc::downgrade(&binary));
                Ok(binary)
            }
            Err(Unattached::Refused(refused)) => {
                Err(Unattached::Refused(self.refuse(content, process, refused)))
            }
            Err(Unattached::Later) => Err(Unattached::Later),
        }
    }

    /// What is attached already for this process, unless it is about to go.
    fn attached_to(&self, process: &Process) -> Option<Result<Arc<Binary>, Unattached>> {
        let binary = |whose| self.attached.get(&whose).and_then(Weak::upgrade);
        if let Some(own) = binary(Whose::one(process)) {
            return Some(Ok(own));
        }
        if let Some(binary) = binary(Whose::Everybody(process.exe_id)) {
            if binary.is_asked_back() {
                return Some(Err(Unattached::Later));
            }
            // The same file may have come to lie elsewhere: what is changed in a container is copied first.
            if binary.breakpoints_in(process) != Breakpoints::Nowhere {
                return Some(Ok(binary));
            }
        }
        let is_detaching = self
            .detaching
            .iter()
            .any(|detaching| detaching.files.contains(&process.exe_id));
        is_detaching.then_some(Err(Unattached::Later))
    }

    /// Another file's binary that is this one's, too, by the breakpoints that the process has from its start on.
    fn shared(&self, process: &Process, read: &Readable) -> Result<Option<Arc<Binary>>, Unattached> {
        let offsets: Vec<u64> = read.plan.sites.iter().map(|site| site.file_offset).collect();
        let same = self
            .attached
            .iter()
            .filter(|(whose, _)| matches!(whose, Whose::Everybody(_)))
            .filter_map(|(_, binary)| binary.upgrade())
            .find(|binary| binary.offsets == offsets);
        let is_detaching = self
            .detaching
            .iter()
            .any(|detaching| detaching.offsets == offsets && !detaching.files.is_empty());
        if same.is_none() && !is_detaching {
            return Ok(None);
        }
        let bias = types::load_bias(process.pid, &read.program).ok();
        match (hooked::look(process.pid, &read.program, bias, &offsets), same) {
            (Breakpoints::Everywhere, Some(binary)) if !binary.is_asked_back() => Ok(Some(binary)),
            (Breakpoints::Nowhere, _) => Ok(None),
            (Breakpoints::Somewhere, _) if !is_detaching => Ok(None),
            _ => Err(Unattached::Later),
        }
    }

    fn whose(&self, process: &Process, hold: &Hold) -> Result<Whose, Unattached> {
        if hold.is_leased() {
            return Ok(Whose::Everybody(process.exe_id));
        }
        let age = process.age(Duration::from_nanos(clock::now_boot_ns()));
        if self.has_started && age < OWN_HOOKS_AGE {
            return Err(Unattached::Later);
        }
        Ok(Whose::one(process))
    }

    /// Reads the program that `process` runs, so that what it needs can be loaded before it is attached.
    pub(super) fn read_ahead(&mut self, process: &Process) {
        // Without a content, attaching it says why.
        let Ok(content) = content(process) else { return };
        if self.read.contains_key(&process.exe_id) || self.refused.contains_key(&content) {
            return;
        }
        match self.read(process) {
            Ok(read) => drop(self.read.insert(process.exe_id, read)),
            Err(refused) => drop(self.refuse(content, process, Arc::new(refused))),
        }
    }

    /// All that was there has been attached; what was read for others is given back.
    pub(super) fn end_start(&mut self) {
        self.read.clear();
        self.has_started = true;
    }

    fn read(&self, process: &Process) -> Result<Readable, Refused> {
        let mut readable = read(process)?;
        if !self.grpc_messages {
            let counting = [grpc::COUNT_SERVED, grpc::COUNT_CALLED].concat();
            readable
                .plan
                .sites
                .retain(|site| !counting.contains(&site.program));
        }
        Ok(readable)
    }

    /// The sites of what is read and not attached yet.
    pub(super) fn sites_ahead(&self) -> impl Iterator<Item = &Site> {
        self.read.values().flat_map(|read| &read.plan.sites)
    }

    fn refuse(&mut self, content: Content, process: &Process, refused: Arc<Refused>) -> Arc<Refused> {
        // The reason may be that the process has ended.
        if process.is_current() && !refused.may_pass {
            if self.refused.len() >= REFUSED_MAX {
                self.refused.clear();
            }
            self.refused.insert(content, Arc::clone(&refused));
        }
        refused
    }

    /// A target is gone that ran this binary: it stays attached for a while.
    pub(super) fn keep(&mut self, binary: Arc<Binary>, now_ns: u64) {
        self.lingering.retain(|(_, other)| !Arc::ptr_eq(other, &binary));
        if Arc::strong_count(&binary) > 1 {
            return;
        }
        if binary.is_for_everybody() {
            self.lingering
                .push_back((now_ns.saturating_add(LINGER_NS), binary));
        } else {
            self.detach(binary);
        }
    }

    /// Whether a program was read since the last time: that takes memory.
    pub(super) fn has_read(&mut self) -> bool {
        mem::take(&mut self.has_read)
    }

    /// Detaches what nothing has run for a while.
    pub(super) fn forget_unused(&mut self, now_ns: u64) {
        while let Some((until_ns, _)) = self.lingering.front()
            && (*until_ns <= now_ns || self.lingering.len() > LINGERING_MAX)
        {
            if let Some((_, binary)) = self.lingering.pop_front() {
                self.detach(binary);
            }
        }
        self.attached.retain(|_, binary| binary.strong_count() > 0);
    }

    /// Those whose file somebody wants to write into. They are not handed out any more.
    pub(super) fn take_asked_back(&mut self) -> Vec<Arc<Binary>> {
        let mut asked = self.unique();
        asked.retain(|binary| binary.is_asked_back());
        for binary in &asked {
            info!(exe = %binary.exe.display(), "Program is to be written anew: taking the hooks out");
            self.lingering.retain(|(_, other)| !Arc::ptr_eq(other, binary));
        }
        asked
    }

    /// Detaches one that no target has any more, on a thread of its own: whoever starts meanwhile shall not wait for it.
    pub(super) fn detach(&mut self, binary: Arc<Binary>) {
        self.attached
            .retain(|_, other| other.as_ptr() != Arc::as_ptr(&binary));
        let detaching = Detaching {
            files: binary.files(),
            offsets: binary.offsets.clone(),
            thread: thread::Builder::new().spawn(move || drop(binary)).ok(),
        };
        self.detaching.push(detaching);
    }

    /// What is attached only because it was run a while ago.
    pub(super) fn take_lingering(&mut self) -> impl Iterator<Item = Arc<Binary>> {
        self.lingering.drain(..).map(|(_, binary)| binary)
    }

    /// How many are attached.
    pub(super) fn attached(&self) -> usize {
        self.unique().len()
    }

    /// How many hooks are in place.
    pub(super) fn sites(&self) -> usize {
        self.unique().iter().map(|binary| binary.links.len()).sum()
    }

    /// Each once, by however many names it is known.
    fn unique(&self) -> Vec<Arc<Binary>> {
        let mut all: Vec<_> = self.attached.values().filter_map(Weak::upgrade).collect();
        all.sort_by_key(Arc::as_ptr);
        all.dedup_by(|one, other| Arc::ptr_eq(one, other));
        all
    }
}

impl Whose {
    fn one(process: &Process) -> Self {
        Self::One {
            pid: process.pid,
            start_ticks: process.start_ticks,
            file: process.exe_id,
        }
    }
}

fn content(process: &Process) -> io::Result<Content> {
    let metadata = fs::metadata(process.exe_path())?;
    let ns = |seconds, ns| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    Ok(Content {
        file: FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        },
        size_bytes: metadata.size(),
        modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// A program that can be traced, held open: the process may end while we attach, and its path with it, and half of
/// the hooks in place would be worse than none.
struct Readable {
    hold: Hold,
    program: GoBinary,
    plan: Plan,
}

fn read(process: &Process) -> Result<Readable, Refused> {
    // Before it is read: what is read then stays.
    let hold = Hold::new(&process.exe_path()).map_err(|error| Refused {
        may_pass: is_short(&error),
        ..Refused::new(format!("open its program: {error}"))
    })?;
    let path = hold.path();
    let refused = |error: BinaryError| Refused {
        may_pass: is_short(&error),
        is_not_go: matches!(error, BinaryError::NotGo { .. }),
        // The name is ours, and the next one that runs the program is refused in the same words.
        text: crate::chain(&error).replace(&*path.to_string_lossy(), &process.exe.to_string_lossy()),
    };
    let program = GoBinary::open(&path).map_err(refused)?;
    let plan = instrument::plan(&program).map_err(refused)?;
    if let Some(agent) = &plan.already_traced {
        return Err(Refused::new(format!(
            "it already carries {agent}, and is left to it"
        )));
    }
    let exe = process.exe.display();
    for refusal in &plan.refusals {
        let (symbol, program, reason) = (refusal.symbol, refusal.program, &refusal.reason);
        match refusal.on_missing {
            // The refusal below says it of the whole, and the part's own missing hook of the others.
            _ if plan.sites.is_empty() || matches!(reason, RefusalReason::PartRefused(..)) => {
                debug!(%exe, program, symbol, %reason, "Program not attached");
            }
            // Nothing of the program is lost with it.
            OnMissing::Unused(_) => debug!(%exe, program, symbol, %reason, "Program not attached"),
            OnMissing::Refuse => warn!(%exe, program, symbol, %reason, "Program not attached"),
            OnMissing::Degrade(lost) => warn!(%exe, program, symbol, %reason, lost, "Program not attached"),
        }
    }
    if plan.sites.is_empty() {
        let absent = "it neither serves nor calls by net/http or grpc-go, as far as its functions tell";
        let first = plan.refusals.first().map(|refusal| refusal.reason.to_string());
        return Err(Refused::new(first.unwrap_or_else(|| absent.to_owned())));
    }
    Ok(Readable { hold, program, plan })
}

fn attach(kernel: &mut Kernel, process: &Process, read: Readable, whose: Whose) -> Result<Binary, Refused> {
    let Readable { hold, program, plan } = read;
    let exe = process.exe.display();
    let scope = match whose {
        Whose::Everybody(_) => Scope::Everybody,
        Whose::One { pid, .. } => Scope::Process(pid),
    };
    let (links, failed) = kernel.attach(&hold.path(), &plan.sites, scope);
    for error in &failed {
        let error = crate::chain(error);
        warn!(%exe, %error, "Program not attached");
    }
    let short = failed.iter().find(|error| is_short(*error));
    if links.is_empty() || short.is_some() {
        let first = short.or(failed.first()).map(|error| crate::chain(error));
        return Err(Refused {
            // What has half its hooks since the others found no room would tell half of its requests.
            may_pass: short.is_some(),
            ..Refused::new(format!(
                "no hook could be attached: {}",
                first.unwrap_or_default()
            ))
        });
    }
    debug!(%exe, go = %program.go_version_text, count = links.len(), ?whose, "Binary attached");
    let offsets = plan.sites.iter().map(|site| site.file_offset);
    let is_in = |offset: &u64| failed.iter().all(|error| error.file_offset != *offset);
    Ok(Binary {
        offsets: offsets.filter(is_in).collect(),
        exe: process.exe.clone(),
        holds: Mutex::new(match whose {
            Whose::Everybody(file) => vec![(file, hold)],
            Whose::One { .. } => Vec::new(),
        }),
        plan,
        program,
        links,
        failed,
    })
}

impl Binary {
    /// As the program says it.
    pub(super) fn go_version(&self) -> &str {
        &self.program.go_version_text
    }

    /// How many hooks are in place.
    pub(super) fn hooks(&self) -> usize {
        self.links.len()
    }

    /// Where the process's image lies above the addresses in the file: 0 unless it is position-independent.
    pub(super) fn load_bias(&self, pid: u32) -> Option<u64> {
        types::load_bias(pid, &self.program).ok()
    }

    /// The names of the program's types as they lie in a process with this load bias.
    pub(super) fn type_names(&self, load_bias: Option<u64>) -> Option<TypeNames> {
        Some(TypeNames::new(&self.program, self.plan.types?, load_bias?))
    }

    fn breakpoints_in(&self, process: &Process) -> Breakpoints {
        let bias = self.load_bias(process.pid);
        hooked::look(process.pid, &self.program, bias, &self.offsets)
    }

    /// Another file is this one, too.
    fn hold(&self, file: FileId, hold: Hold) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        // What was held of the same file before has been replaced underneath.
        holds.push((file, hold));
    }

    /// The files that all processes have the hooks from.
    fn files(&self) -> Vec<FileId> {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.iter().map(|(file, _)| *file).collect()
    }

    fn is_for_everybody(&self) -> bool {
        !self.files().is_empty()
    }

    fn is_asked_back(&self) -> bool {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.iter().any(|(_, hold)| hold.is_asked_back())
    }
}
