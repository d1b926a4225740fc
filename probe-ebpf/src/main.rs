//! kernel programs

fn main() {}
