//! The kernel's side of the border: the only module that knows aya.

pub mod feature;
pub mod load;
