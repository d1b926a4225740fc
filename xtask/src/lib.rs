//! Everything that is not `cargo build`: getting tools, building the release, running every test, the demo.
//!
//! A library as well as a binary, because the package `tests` gets what it must install from here.
#![expect(clippy::print_stderr, reason = "a tool that people watch")]
#![expect(clippy::print_stdout, reason = "its results go to stdout")]

pub mod bench;
pub mod build;
pub mod cache;
pub mod checkers;
pub mod child;
pub mod cross;
pub mod debian;
pub mod demo;
pub mod fuzz;
pub mod go;
pub mod http;
pub mod image;
pub mod kubernetes;
pub mod notices;
pub mod oap;
pub mod offsets;
pub mod package;
pub mod peers;
pub mod pictures;
pub mod process;
pub mod processor;
pub mod scratch;
pub mod step;
pub mod test;
pub mod toolchain;
pub mod vm;

#[cfg(test)]
mod tidy;
