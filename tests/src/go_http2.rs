//! The program `http2`: services that speak HTTP/2 to each other, by either of Go's packages.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    scene::Scene,
    target::{Go, GoBuild},
};

/// Which package speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// What is within `net/http`; without TLS since Go 1.24.
    Standard,
    /// `golang.org/x/net/http2`, of a version that has all of it.
    XNet,
    /// The same of one that, with Go 1.27 and later, hands on to the standard library's.
    Handing,
}

/// What a load asks the front for by HTTP/2: all but what only HTTP/1 can do, some more often than others.
pub const MIX: &str = "\
    leaf,leaf,leaf,leaf,leaf,leaf,sync,sync,sync,sync,sync,sync,bare,bare,bare,values,deadline,chain,chain,twice,twice,\
    redirect,redirect,retry,post,post,chunked,tls,tls,proxy,via_proxy,behind,behind,behind_tls,behind_twice,trailers,\
    part,part,reset,tear,break,fanout_ctx,fanout,fanout_deep,pool_ctx,pool_ctx,\
    pool,pool_lazy,overlap,outlive,outlive_ctx,timeout,cancel,refused,tls_bad,failed,stream,panic,goexit,\
    +pipeline,+late,+post";

// === impl Package ===

impl Package {
    pub const ALL: [Self; 3] = [Self::Standard, Self::XNet, Self::Handing];

    /// How the program is built.
    pub fn build(self) -> GoBuild {
        let build = GoBuild::new("http2");
        match self {
            Self::Standard => build,
            Self::XNet => build.flag("-tags=xnet"),
            Self::Handing => build.flag("-tags=xnet").flag("-modfile=wrap.mod"),
        }
    }

    /// The program, built by this Go with these flags. The error says why it cannot be had.
    pub fn program(self, go: &Go, flags: &[&str]) -> Result<PathBuf> {
        let build = flags.iter().fold(self.build(), |build, flag| build.flag(flag));
        build.fetch(go)?;
        build.build(go)
    }

    /// Why the program cannot be built with the Go that is at hand, if so.
    pub fn obstacle(self) -> Option<String> {
        let built = Go::system().and_then(|go| self.program(&go, &[]));
        built.err().map(|error| format!("{error:#}"))
    }

    /// `front` and `back`, built with the Go that is at hand.
    pub fn scene(self) -> Result<Scene> {
        Scene::of(&self.program(&Go::system()?, &[])?)
    }
}

/// Ends the test with a printed reason where nothing can be traced, or the program cannot be built.
#[macro_export]
macro_rules! needs_http2 {
    ($package:expr) => {
        $crate::needs_probe!();
        if let Some(reason) = $package.obstacle() {
            $crate::skip::skip(&reason);
            return;
        }
    };
}
