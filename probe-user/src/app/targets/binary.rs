//! Binaries attached to, each once however many processes run it.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    mem,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
};

use tracing::{debug, warn};

use crate::{
    discover::{
        go::{BinaryError, GoBinary},
        process::Process,
        types::{self, TypeNames},
    },
    instrument::{self, OnMissing, Plan, RefusalReason, Site, go::grpc},
    kernel::{Kernel, attach::Links},
};

/// A file's content, as far as it can be told from outside: the inode alone may be reused, or rewritten in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Content {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified_ns: i128,
}

/// A binary with its hooks in place. Dropped, it is detached.
pub(super) struct Binary {
    pub(super) plan: Plan,
    program: GoBinary,
    links: Links,
}

/// Why a binary is not traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) text: String,
    pub(super) is_not_go: bool,
}

impl Refused {
    pub(super) fn new(text: String) -> Self {
        Self {
            text,
            is_not_go: false,
        }
    }
}

/// How long a binary stays attached that nothing runs any more. A program that is started again is then traced at
/// once; attaching anew would have to wait for the kernel to detach, which takes a second or two.
const LINGER_NS: u64 = 60_000_000_000;

/// How many binaries may do so.
const LINGERING_MAX: usize = 16;

/// The binaries of all targets.
pub(super) struct Binaries {
    /// Streams of gRPC have their messages counted.
    grpc_messages: bool,
    attached: HashMap<Content, Weak<Binary>>,
    /// With the time until which each is kept, the oldest first.
    lingering: VecDeque<(u64, Arc<Binary>)>,
    /// What was found wanting, so that the next process that runs it is answered at once.
    refused: HashMap<Content, Arc<Refused>>,
    /// Read before they are attached.
    read: HashMap<Content, Readable>,
    /// Whether one was read since somebody asked.
    has_read: bool,
}

/// Refusals remembered; a host has few programs and many processes.
const REFUSED_MAX: usize = 1_024;

impl Binaries {
    pub(super) fn new(grpc_messages: bool) -> Self {
        Self {
            grpc_messages,
            attached: HashMap::new(),
            lingering: VecDeque::new(),
            refused: HashMap::new(),
            read: HashMap::new(),
            has_read: false,
        }
    }

    /// The binary that `process` runs, attached now if it was not before.
    pub(super) fn attach(
        &mut self,
        kernel: &mut Kernel,
        process: &Process,
    ) -> Result<Arc<Binary>, Arc<Refused>> {
        let content =
            content(process).map_err(|error| Arc::new(Refused::new(format!("read its program: {error}"))))?;
        if let Some(binary) = self.attached.get(&content).and_then(Weak::upgrade) {
            return Ok(binary);
        }
        if let Some(refused) = self.refused.get(&content) {
            return Err(Arc::clone(refused));
        }
        let read = match self.read.remove(&content) {
            Some(read) => Ok(read),
            None => {
                self.has_read = true;
                self.read(process)
            }
        };
        let binary = match read.and_then(|read| attach(kernel, process, read)) {
            Ok(binary) => Arc::new(binary),
            Err(refused) => return Err(self.refuse(content, process, refused)),
        };
        self.attached.insert(content, Arc::downgrade(&binary));
        Ok(binary)
    }

    /// Reads the program that `process` runs, so that what it needs can be loaded before it is attached.
    pub(super) fn read_ahead(&mut self, process: &Process) {
        // Without a content, attaching it says why.
        let Ok(content) = content(process) else { return };
        if self.read.contains_key(&content) || self.refused.contains_key(&content) {
            return;
        }
        match self.read(process) {
            Ok(read) => drop(self.read.insert(content, read)),
            Err(refused) => drop(self.refuse(content, process, refused)),
        }
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

    fn refuse(&mut self, content: Content, process: &Process, refused: Refused) -> Arc<Refused> {
        let refused = Arc::new(refused);
        // The reason may be that the process has ended.
        if process.is_current() {
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
        if Arc::strong_count(&binary) == 1 {
            self.lingering
                .push_back((now_ns.saturating_add(LINGER_NS), binary));
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
            let binary = self.lingering.pop_front();
            // On a thread of its own: whoever starts meanwhile shall not wait for it.
            thread::spawn(move || drop(binary));
        }
        self.attached.retain(|_, binary| binary.strong_count() > 0);
    }

    /// What is attached only because it was run a while ago.
    pub(super) fn take_lingering(&mut self) -> impl Iterator<Item = Arc<Binary>> {
        self.lingering.drain(..).map(|(_, binary)| binary)
    }

    /// How many are attached.
    pub(super) fn attached(&self) -> usize {
        self.attached
            .values()
            .filter(|binary| binary.strong_count() > 0)
            .count()
    }

    /// How many hooks are in place.
    pub(super) fn sites(&self) -> usize {
        self.attached
            .values()
            .filter_map(Weak::upgrade)
            .map(|binary| binary.links.len())
            .sum()
    }
}

fn content(process: &Process) -> std::io::Result<Content> {
    let metadata = fs::metadata(process.exe_path())?;
    Ok(Content {
        device: metadata.dev(),
        inode: metadata.ino(),
        size_bytes: metadata.size(),
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
    })
}

/// A program that can be traced, held open: the process may end while we attach, and its path with it, and half of
/// the hooks in place would be worse than none.
struct Readable {
    file: File,
    program: GoBinary,
    plan: Plan,
}

fn read(process: &Process) -> Result<Readable, Refused> {
    let path = process.exe_path();
    let file = File::open(&path).map_err(|error| Refused::new(format!("open its program: {error}")))?;
    let refused = |error: BinaryError| Refused {
        is_not_go: matches!(error, BinaryError::NotGo { .. }),
        // The link is this process's, and the next one that runs the program is refused in the same words.
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
    Ok(Readable { file, program, plan })
}

fn attach(kernel: &mut Kernel, process: &Process, read: Readable) -> Result<Binary, Refused> {
    let Readable { file, program, plan } = read;
    let exe = process.exe.display();
    let held = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let (links, failed) = kernel.attach(&held, &plan.sites);
    for error in &failed {
        let error = crate::chain(error);
        warn!(%exe, %error, "Program not attached");
    }
    if links.is_empty() {
        let first = failed
            .first()
            .map(|error| crate::chain(error))
            .unwrap_or_default();
        return Err(Refused::new(format!("no hook could be attached: {first}")));
    }
    debug!(%exe, go = %program.go_version_text, count = links.len(), "Binary attached");
    Ok(Binary { plan, program, links })
}

impl Binary {
    /// Where the process's image lies above the addresses in the file: 0 unless it is position-independent.
    pub(super) fn load_bias(&self, pid: u32) -> Option<u64> {
        types::load_bias(pid, &self.program).ok()
    }

    /// The names of the program's types as they lie in a process with this load bias.
    pub(super) fn type_names(&self, load_bias: Option<u64>) -> Option<TypeNames> {
        Some(TypeNames::new(&self.program, self.plan.types?, load_bias?))
    }
}
