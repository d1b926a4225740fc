//! skyprobe

fn main() {}
