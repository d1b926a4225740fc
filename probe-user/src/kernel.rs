//! The kernel's side of the border: the only module that knows aya.

pub mod attach;
mod bpf;
pub mod enrol;
pub mod feature;
pub mod load;
mod logs;
pub mod object;
pub mod propagation;
pub mod rights;
pub mod ring;
mod sampling;
mod types;

use std::{cmp::Reverse, collections::HashSet, ffi::CStr, iter, os::fd::OwnedFd, path::Path};

use aya::{
    Pod,
    maps::{HashMap, MapData, PerCpuArray, RingBuf},
};
use probe_common::{
    key::{GoroutineKey, PointerKey},
    limits::{CALL_STATE_BYTES, REQUEST_STATE_BYTES},
    loss::LossReason,
    target::TargetInfo,
};

use self::{
    attach::{AttachError, Links, Scope},
    enrol::{Connection, Enrolled},
    load::LoadError,
    object::{Object, Program},
    propagation::{PropagationError, SocketMethod, Sockets},
    ring::Ring,
};
use crate::{discover::process::Process, instrument::Site};

/// The loaded programs and their maps. Dropped, everything is detached.
pub struct Kernel {
    /// Of what is attached once, for all processes.
    links: Vec<OwnedFd>,
    object: Object,
    logs: logs::Logs,
}

/// What a program took, over all processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    pub program: String,
    pub runs: u64,
    pub run_ns: u64,
}

/// What follows processes, and the raw tracepoint each is for.
const PROCESS_PROGRAMS: [(&str, &CStr); 2] = [
    ("process_exec", c"sched_process_exec"),
    ("process_exit", c"sched_process_exit"),
];

/// A map's value that only the kernel programs know.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Opaque<const N: usize>([u8; N]);

// SAFETY: an array of bytes.
#[expect(unsafe_code, reason = "a marker on bytes")]
unsafe impl<const N: usize> Pod for Opaque<N> {}

impl Kernel {
    /// Makes the maps and loads the programs that follow processes, and with `propagation` those that method `socket`
    /// has for all; hands out the ring's user end. The others are loaded when something wants them: a host without gRPC
    /// has no program for it.
    ///
    /// With `log`, programs that say what they do, if this build has them.
    pub fn load(log: bool, propagation: bool) -> Result<(Self, Ring), LoadError> {
        let mut object = logs::object(log)?;
        for (program, _) in PROCESS_PROGRAMS {
            load::program(&mut object, program)?;
        }
        let ring = object
            .take_map("EVENTS")
            .ok_or(LoadError::Absent { what: "map EVENTS" })?;
        let ring = RingBuf::try_from(ring).or(Err(LoadError::Absent {
            what: "ring buffer EVENTS",
        }))?;
        let logs = logs::Logs::new(&object, log);
        let ring = Ring::new(ring).map_err(LoadError::Ring)?;
        let mut kernel = Self {
            links: Vec::new(),
            object,
            logs,
        };
        kernel.load_ahead(iter::empty(), propagation);
        Ok((kernel, ring))
    }

    /// Passes on what the programs have said.
    pub fn forward_logs(&mut self) {
        self.logs.forward();
    }

    /// Follows processes that start and end from here on.
    pub fn follow_processes(&mut self) -> Result<(), LoadError> {
        for (name, tracepoint) in PROCESS_PROGRAMS {
            let program = load::program(&mut self.object, name)?;
            let link = bpf::attach_to_tracepoint(program, tracepoint);
            self.links.push(link.map_err(|source| LoadError::Tracepoint {
                program: name,
                source,
            })?);
        }
        Ok(())
    }

    /// Puts propagation by `socket` to work.
    pub fn start_propagation(&mut self) -> Result<SocketMethod, PropagationError> {
        propagation::start(&mut self.object, &mut self.links)
    }

    /// Has it serve programs that write frames of HTTP/2 as well.
    pub fn start_frame_propagation(&mut self) -> Result<(), PropagationError> {
        propagation::start_frames(&mut self.object)
    }

    /// Loads ahead of their use what the sites need, and with `propagation` what method `socket` does.
    pub fn load_ahead<'a>(&mut self, sites: impl Iterator<Item = &'a Site>, propagation: bool) {
        let sites: Vec<&Site> = sites.collect();
        // Those that take the verifier longest come first, so that no processor is idle while another one has a long one
        // left: as a rule that is the length of their code.
        let length = |program: &&str| self.object.program(program).map_or(0, Program::length);
        let mut programs: Vec<&str> = sites.iter().map(|site| site.program).collect();
        programs.sort_by_key(|program| Reverse(length(program)));
        if propagation {
            // `socket_frames` is short and takes longest of all.
            programs.splice(..0, propagation::programs(sites.iter().copied()));
        }
        load::ahead(&mut self.object, &programs);
    }

    /// Attaches the sites of the binary at `path`.
    pub fn attach(&mut self, path: &Path, sites: &[Site], scope: Scope) -> (Links, Vec<AttachError>) {
        attach::attach(&mut self.object, path, sites, scope)
    }

    /// From here on the process is traced.
    pub fn insert_target(&mut self, tgid: u32, target: &TargetInfo) -> Result<(), LoadError> {
        let mut targets = self.map::<u32, TargetInfo>("TARGETS")?;
        targets
            .insert(tgid, target, 0)
            .or(Err(LoadError::Full { what: "TARGETS" }))
    }

    /// From here on it is not; what its open requests left in the maps goes too. How many requests and calls were
    /// open, whose ends nobody sees now.
    pub fn remove_target(&mut self, tgid: u32) -> Result<u64, LoadError> {
        // Gone already is as good.
        let _ = self.map::<u32, TargetInfo>("TARGETS")?.remove(&tgid);
        let open = self
            .sweep::<GoroutineKey, Opaque<REQUEST_STATE_BYTES>>("GO_REQUESTS", |key| key.tgid == tgid)?
            + self.sweep::<GoroutineKey, Opaque<CALL_STATE_BYTES>>("GO_CALLS", |key| key.tgid == tgid)?
            + self.sweep::<PointerKey, Opaque<CALL_STATE_BYTES>>("GRPC_CALLS", |key| key.tgid == tgid)?;
        self.sweep::<PointerKey, u64>("GO_CONTEXTS", |key| key.tgid == tgid)?;
        Ok(open)
    }

    /// Enrols the client connections that the process has open.
    pub fn enrol(&mut self, process: &Process, sockets: Sockets) -> Result<Enrolled, PropagationError> {
        let mut sockets = sockets.map(&mut self.object)?;
        enrol::enrol(&mut sockets, process).map_err(|source| PropagationError::Attach {
            what: "open sockets of the process",
            source: source.into(),
        })
    }

    /// How many connections get headers.
    pub fn enrolled(&mut self) -> u64 {
        self.enrolled_cookies().len() as u64
    }

    /// The connections that the process has opened; none if it ends meanwhile.
    pub fn connections(&mut self, process: &Process) -> Vec<Connection> {
        enrol::connections(process, &self.enrolled_cookies()).unwrap_or_default()
    }

    fn enrolled_cookies(&mut self) -> HashSet<u64> {
        let mut cookies = HashSet::new();
        for sockets in Sockets::ALL {
            if let Ok(sockets) = sockets.map(&mut self.object) {
                cookies.extend(enrol::cookies(&sockets));
            }
        }
        cookies
    }

    /// The programs that are loaded, with what they took. The kernel counts that only where `kernel.bpf_stats_enabled`
    /// is on, and else says 0.
    pub fn runs(&self) -> Vec<Runs> {
        let loaded = self.object.programs().filter_map(|(name, program)| {
            Some(Runs {
                program: name.to_owned(),
                runs: program.number("run_cnt")?,
                run_ns: program.number("run_time_ns")?,
            })
        });
        loaded.collect()
    }

    /// How often each thing was lost on the kernel's side, over all CPUs.
    pub fn losses(&self) -> Vec<(LossReason, u64)> {
        let Some(map) = self.object.map("LOSSES") else {
            return Vec::new();
        };
        let Ok(counters) = PerCpuArray::<_, u64>::try_from(map) else {
            return Vec::new();
        };
        let count = |reason: LossReason| {
            counters
                .get(&(reason as u32), 0)
                .map_or(0, |values| values.iter().sum())
        };
        LossReason::ALL
            .into_iter()
            .map(|reason| (reason, count(reason)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn map<K: Pod, V: Pod>(&mut self, name: &'static str) -> Result<HashMap<&mut MapData, K, V>, LoadError> {
        let map = self
            .object
            .map_mut(name)
            .ok_or(LoadError::Absent { what: name })?;
        HashMap::try_from(map).or(Err(LoadError::Absent { what: name }))
    }

    /// Deletes the entries whose key is `of` the one that goes; how many there were.
    fn sweep<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
        of: impl Fn(&K) -> bool,
    ) -> Result<u64, LoadError> {
        let mut map = self.map::<K, V>(name)?;
        let keys: Vec<K> = map.keys().filter_map(Result::ok).filter(of).collect();
        // A program that was under way may have deleted it in between: then its end was seen.
        let swept = keys.iter().filter(|key| map.remove(key).is_ok());
        Ok(swept.count() as u64)
    }
}
