//! Headers into sockets that are full: what the kernel takes in part must not come out otherwise.

use tests::{
    needs_probe,
    probe::Probe,
    target::{Go, GoBuild, Target},
};

/// The kernel tells a program how much of a message it has taken by what is left of it, our bytes among that. So a
/// program whose socket was full sent again what had gone already, and its connection fell apart.
#[test]
fn a_full_socket_gets_each_byte_once() {
    needs_probe!();
    let program = GoBuild::new("backlog").build(&Go::system().unwrap()).unwrap();
    let target = Target::start(&program, &[]).unwrap();
    assert_eq!(target.line().unwrap(), "ready");
    let probe = Probe::of_pids(&[target.pid()], &[]).unwrap();
    target.signal(libc::SIGUSR1);
    let told = target.line().unwrap();
    let numbers: Vec<u64> = told
        .split([' ', ','])
        .filter_map(|word| word.parse().ok())
        .collect();
    let [good, bad, with_header, calls] = numbers[..] else {
        panic!("{told}")
    };
    assert_eq!(bad, 0, "{told}");
    assert!(good > 1_000 && calls > 1_000, "{told}");
    // Where there is room it gets its header; where not, that is counted.
    assert!(with_header > calls / 2, "{told}");
    let ended = probe.stop().unwrap();
    assert!(
        with_header == calls || ended.stderr.contains("propagation_refused"),
        "{told}\n{}",
        ended.stderr
    );
}
