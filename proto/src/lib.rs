//! SkyWalking wire types.
