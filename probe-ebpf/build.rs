//! Compiles the object anew when bpf-linker changes: Cargo does not watch linkers.
#![expect(
    clippy::disallowed_methods,
    reason = "Cargo speaks to a build script through the environment"
)]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(bpf_target_arch, values(\"x86_64\", \"aarch64\"))");
    println!("cargo::rerun-if-env-changed=SKYPROBE_BPF_LINKER");
    if let Some(linker) = std::env::var_os("SKYPROBE_BPF_LINKER") {
        println!("cargo::rerun-if-changed={}", linker.display());
    }
}
