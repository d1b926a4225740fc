//! `sw8`: the header by which SkyWalking's agents hand a trace on.
