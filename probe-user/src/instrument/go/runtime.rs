//! The Go runtime: who the running goroutine is, and whose child.

use probe_common::field::GoField;

/// Without it no goroutine has a name.
pub const NEEDS: &[GoField] = &[GoField::GGoid];

/// What proves that a goroutine was made by a request that is still open.
pub const ANCESTRY: &[GoField] = &[
    GoField::GParentGoid,
    GoField::GM,
    GoField::MP,
    GoField::PGoidcache,
    GoField::PGoidcacheend,
];

/// What a pure Go program asks `FIONREAD` with.
pub const IOCTL: &str = "golang.org/x/sys/unix.IoctlGetInt";

/// It takes ids for new goroutines from `runtime.sched.goidgen`.
pub const NEWPROC: &str = "runtime.newproc1";
