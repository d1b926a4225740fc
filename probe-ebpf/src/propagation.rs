//! Propagation: the header lines of an outgoing request, and how they get into it.

pub(crate) mod header;
mod socket;
