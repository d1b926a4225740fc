//! Propagation: the header lines of an outgoing request, and how they get into it.

mod frames;
pub(crate) mod header;
mod socket;
