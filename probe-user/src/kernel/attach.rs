//! Sites become links. One binary is attached once, however many processes run it; which of them are traced the
//! programs ask a map.

use std::{num::NonZeroU32, path::Path, thread};

use aya::{
    Ebpf,
    programs::{
        UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};

use super::load::{self, LoadError};
use crate::instrument::Site;

/// The links of one binary. Dropped, they detach.
#[derive(Debug)]
pub struct Links {
    links: Vec<UProbeLink>,
}

impl Links {
    /// How many sites are attached.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // The kernel waits for running programs at each detach, some 100 ms on a busy machine. The waits overlap when
        // they are asked for at once.
        thread::scope(|scope| {
            for link in self.links.drain(..) {
                scope.spawn(move || drop(link));
            }
        });
    }
}

/// Who gets the breakpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All processes that run the binary, also those that start later.
    Everybody,
    /// This one alone.
    Process(u32),
}

/// A site that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("attach {program} to {symbol} at file offset {file_offset:#x}")]
pub struct AttachError {
    pub program: &'static str,
    pub symbol: &'static str,
    pub file_offset: u64,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Attaches every site of the binary at `path`, loading its program if this is the first one. One that fails does not
/// stop the others.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    path: &Path,
    sites: &[Site],
    scope: Scope,
) -> (Links, Vec<AttachError>) {
    let mut links = Vec::new();
    let mut refused = Vec::new();
    for site in sites {
        match attach_one(ebpf, path, site, scope) {
            Ok(link) => links.push(link),
            Err(source) => refused.push(AttachError {
                program: site.program,
                symbol: site.symbol,
                file_offset: site.file_offset,
                source,
            }),
        }
    }
    (Links { links }, refused)
}

fn attach_one(
    ebpf: &mut Ebpf,
    path: &Path,
    site: &Site,
    scope: Scope,
) -> Result<UProbeLink, Box<dyn std::error::Error + Send + Sync>> {
    load::program(ebpf, site.program)?;
    let program = ebpf
        .program_mut(site.program)
        .ok_or(LoadError::Absent { what: site.program })?;
    let program: &mut UProbe = program.try_into()?;
    let point = UProbeAttachPoint {
        location: UProbeAttachLocation::AbsoluteOffset(site.file_offset),
        cookie: site.decides_on.map(u64::from),
    };
    let scope = match scope {
        Scope::Everybody => UProbeScope::AllProcesses,
        Scope::Process(pid) => UProbeScope::OneProcess(NonZeroU32::new(pid).ok_or("there is no process 0")?),
    };
    let id = program.attach(point, path, scope)?;
    Ok(program.take_link(id)?)
}
