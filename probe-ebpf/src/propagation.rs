//! Propagation: the header lines of an outgoing request, and how they get into it or around it.

mod created;
pub(crate) mod frames;
pub(crate) mod header;
pub(crate) mod hop;
mod room;
mod socket;
