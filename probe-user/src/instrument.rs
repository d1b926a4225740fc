//! Instrumentation as data: which programs go to which functions, what they need to know, and what a binary has of
//! it. [`plan`] is the answer for one binary; nothing here attaches anything.

pub mod go;
pub mod offset;
mod plan;
pub mod site;

use std::fmt;

use probe_common::field::GoField;

pub use self::{
    plan::{Plan, Refusal, RefusalReason, Site, plan},
    site::{Place, SiteKind},
};
use crate::discover::{
    go::{GoBinary, ModuleUnknown},
    layout::{FieldName, Layouts, Told},
    pclntab::Found,
};

/// A library's manifest.
#[derive(Debug)]
pub struct Instrumentation {
    /// Its import path.
    pub library: &'static str,
    pub hooks: &'static [Hook],
}

/// A program, and where it goes.
#[derive(Debug)]
pub struct Hook {
    pub program: &'static str,
    /// The function; more than one where versions spell it differently.
    pub symbols: &'static [&'static str],
    pub site: SiteKind,
    pub versions: Versions,
    pub part: Part,
    pub on_missing: OnMissing,
    /// Fields without which the program cannot work.
    pub needs: &'static [GoField],
    /// Fields that add something where they are known.
    pub wants: &'static [GoField],
}

/// Go 1 releases by their minor number, and where it matters releases of the library's module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub since: u16,
    pub before: Option<u16>,
    pub module: Option<(Side, &'static ModuleChange)>,
}

/// On which side of a change a release is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    Since,
}

/// A change of a library that its struct fields do not show where they are read.
#[derive(Debug, PartialEq, Eq)]
pub struct ModuleChange {
    pub module: &'static str,
    /// Major and minor number of the first release with it.
    pub since: (u64, u64),
    /// A field that went with it: by that a binary tells that does not name its modules.
    pub lost: FieldName<'static>,
}

// === impl Versions ===

impl Versions {
    fn contain(self, binary: &GoBinary, found: &Found) -> Result<bool, RefusalReason> {
        let minor = binary.go_version.minor;
        let go = minor >= self.since && self.before.is_none_or(|before| minor < before);
        match self.module {
            Some((side, change)) if go => Ok(change.side(binary, found)? == side),
            Some(_) | None => Ok(go),
        }
    }
}

// === impl ModuleChange ===

impl ModuleChange {
    /// By the version that the binary names, else by its type descriptors: a commit is named after the last tag that
    /// leads to it, which may be much older.
    fn side(&self, binary: &GoBinary, found: &Found) -> Result<Side, RefusalReason> {
        let why = match binary.module_of(self.module) {
            Ok((_, version)) if version.is_release() => {
                return Ok(if version.minor() < self.since {
                    Side::Before
                } else {
                    Side::Since
                });
            }
            Ok(_) => ModuleUnknown::NoRelease,
            Err(why) => why,
        };
        let (strukt, field) = self.lost;
        let strukt = format!("{}{strukt}", found.vendor);
        match Layouts::find(binary, &[&strukt]).field((&strukt, field)) {
            Told::At(_) => Ok(Side::Before),
            Told::NoField => Ok(Side::Since),
            Told::NoStruct => Err(RefusalReason::UnknownModule {
                module: self.module,
                why,
            }),
        }
    }
}

/// What of a library stands or falls together. The linker leaves out what a program does not use: one that only
/// serves has no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    HttpServer,
    HttpClient,
    Http2Server,
    Http2Client,
    XHttp2Server,
    XHttp2Client,
    GrpcServer,
    GrpcClient,
}

impl Part {
    pub const ALL: [Self; 8] = [
        Self::HttpServer,
        Self::HttpClient,
        Self::Http2Server,
        Self::Http2Client,
        Self::XHttp2Server,
        Self::XHttp2Client,
        Self::GrpcServer,
        Self::GrpcClient,
    ];

    /// It writes requests as frames of HTTP/2.
    pub fn writes_frames(self) -> bool {
        match self {
            Self::HttpServer
            | Self::HttpClient
            | Self::Http2Server
            | Self::XHttp2Server
            | Self::GrpcServer => false,
            Self::Http2Client | Self::XHttp2Client | Self::GrpcClient => true,
        }
    }

    /// It answers; the others ask.
    pub fn is_server(self) -> bool {
        match self {
            Self::HttpServer | Self::Http2Server | Self::XHttp2Server | Self::GrpcServer => true,
            Self::HttpClient | Self::Http2Client | Self::XHttp2Client | Self::GrpcClient => false,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HttpServer => "HTTP server",
            Self::HttpClient => "HTTP client",
            Self::Http2Server => "HTTP/2 server",
            Self::Http2Client => "HTTP/2 client",
            Self::XHttp2Server => "HTTP/2 server of golang.org/x/net",
            Self::XHttp2Client => "HTTP/2 client of golang.org/x/net",
            Self::GrpcServer => "gRPC server",
            Self::GrpcClient => "gRPC client",
        })
    }
}

/// What becomes of the part when a hook cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// The whole part is left alone.
    Refuse,
    /// The rest goes on, and this is lost.
    Degrade(&'static str),
    /// Nothing is lost where the linker left the function out: the program never does this.
    Unused(&'static str),
}
