//! A binary's hooks go in by the many, and one that the kernel refuses costs no other.

use std::fs;

use probe_user::{
    discover::go::GoBinary,
    instrument,
    kernel::{Kernel, attach::Scope},
};
use tests::{needs_probe, scene::truth_program};

#[test]
fn a_hook_that_the_kernel_refuses_does_not_stop_the_others() {
    needs_probe!();
    let path = truth_program().unwrap();
    let mut sites = instrument::plan(&GoBinary::open(&path).unwrap()).unwrap().sites;
    let (mut kernel, _ring) = Kernel::load(false, false).unwrap();
    let (links, refused) = kernel.attach(&path, &sites, Scope::Everybody);
    assert_eq!((links.len(), refused.len()), (sites.len(), 0));
    drop(links);

    // Of a program that has several, one lies behind the file's end.
    let several = sites.windows(2).position(|pair| {
        pair.iter()
            .all(|site| site.program == "go_net_http_round_trip_return")
    });
    let beyond = fs::metadata(&path).unwrap().len() + 4096;
    sites.get_mut(several.unwrap()).unwrap().file_offset = beyond;
    let (links, refused) = kernel.attach(&path, &sites, Scope::Everybody);
    assert_eq!(links.len(), sites.len() - 1);
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let [one] = refused.as_slice() else {
        panic!("{refused:?}")
    };
    assert_eq!(
        *one,
        format!(
            "attach go_net_http_round_trip_return to net/http.(*Transport).roundTrip at file offset {beyond:#x}"
        )
    );
}
