//! Generates the wire types from `skywalking/*.proto`, in pure Rust: no `protoc` is needed.

use std::error::Error;

const FILES: [&str; 7] = [
    "common.proto",
    "tracing.proto",
    "management.proto",
    "configuration.proto",
    "meter.proto",
    "logging.proto",
    "event.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=skywalking");
    let descriptors = protox::compile(FILES, ["skywalking"])?;
    tonic_prost_build::configure()
        .build_server(cfg!(feature = "server"))
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
