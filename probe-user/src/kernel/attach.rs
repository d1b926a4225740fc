//! Sites become links. One binary is attached once, however many processes run it; which of them are traced the
//! programs ask a map.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    slice, thread,
};

use super::{
    bpf::{self, Place},
    load,
    object::{Object, Uprobes},
};
use crate::instrument::Site;

/// The links of one binary. Dropped, they detach.
#[derive(Debug)]
pub struct Links {
    links: Vec<OwnedFd>,
    sites: usize,
    uprobes: Uprobes,
}

impl Links {
    /// How many sites are attached.
    pub fn len(&self) -> usize {
        self.sites
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.sites == 0
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // The kernel waits for running programs at each, some 80 ms. The waits overlap when they are asked for at
        // once, except for those of perf's events, of which there are the more.
        if self.uprobes == Uprobes::OneByOne {
            return self.links.clear();
        }
        thread::scope(|scope| {
            for link in self.links.drain(..) {
                // Where there can be no further thread, the link has gone with what was to drop it.
                let _ = thread::Builder::new().spawn_scoped(scope, move || drop(link));
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
    object: &mut Object,
    path: &Path,
    sites: &[Site],
    scope: Scope,
) -> (Links, Vec<AttachError>) {
    let mut links = Vec::new();
    let mut refused = Vec::new();
    // A hook's sites follow one another.
    for sites in sites.chunk_by(|one, next| one.program == next.program) {
        if object.uprobes() == Uprobes::ByTheMany
            && let Ok(link) = attach_together(object, path, sites, scope)
        {
            links.push(link);
            continue;
        }
        // The kernel attaches to all or to none; by itself each shows whether it was the one.
        for site in sites {
            match attach_together(object, path, slice::from_ref(site), scope) {
                Ok(link) => links.push(link),
                Err(source) => refused.push(AttachError {
                    program: site.program,
                    symbol: site.symbol,
                    file_offset: site.file_offset,
                    source,
                }),
            }
        }
    }
    let links = Links {
        links,
        sites: sites.len() - refused.len(),
        uprobes: object.uprobes(),
    };
    (links, refused)
}

fn attach_together(
    object: &mut Object,
    path: &Path,
    sites: &[Site],
    scope: Scope,
) -> Result<OwnedFd, Box<dyn std::error::Error + Send + Sync>> {
    let site = sites.first().ok_or("there is no site")?;
    let places: Vec<Place> = sites.iter().map(place).collect();
    let uprobes = object.uprobes();
    let program = load::program(object, site.program)?;
    Ok(attach_places(uprobes, program, path, &places, scope)?)
}

/// Attaches a program to all these places; one by one, to the only one.
pub(super) fn attach_places(
    uprobes: Uprobes,
    program: BorrowedFd<'_>,
    path: &Path,
    places: &[Place],
    scope: Scope,
) -> io::Result<OwnedFd> {
    let process = match scope {
        Scope::Everybody => None,
        Scope::Process(pid) => Some(pid),
    };
    match (uprobes, places) {
        (Uprobes::ByTheMany, places) => bpf::attach_to_places(program, path, places, process),
        (Uprobes::OneByOne, [place]) => bpf::attach_to_place(program, path, *place, process),
        (Uprobes::OneByOne, _) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn place(site: &Site) -> Place {
    Place {
        file_offset: site.file_offset,
        cookie: site.decides_on.map_or(0, u64::from),
    }
}
