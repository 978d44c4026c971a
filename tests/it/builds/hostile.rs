//! Contexts that are large, deep or odd: little memory, and what docker makes of them.

use std::fs;

use rustix::fs::XattrFlags;

use super::{Tree, beside_docker::by_docker, build, finished};
use crate::support::{Service, docker};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_two_gibibytes_passes_in_little_memory() {
    let tree = Tree::new("COPY small /small\n", &[("small", "small")]);
    let large = fs::File::create(tree.root().join("ctx/large")).expect("a file");
    large.set_len(2 << 30).expect("a hole");
    let root = tree.root().to_owned();
    let service = Service::program(|config| config.build_roots = vec![root]).await.synced().await;
    finished(&build(&service, tree.request()).await);
    assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/small"]), "small");
    let most = service.most_memory();
    assert!(most < 100 << 20, "{most} bytes");
}

/// Docker's command sends the capability of a program and no other attribute.
#[tokio::test(flavor = "multi_thread")]
async fn a_capability_arrives_and_other_attributes_do_not() {
    let tree = Tree::new("COPY . /ctx/\n", &[("program", "x"), ("other", "y")]);
    let at = |path: &str| tree.root().join("ctx").join(path);
    // cap_net_bind_service=ep, as the kernel writes it.
    let mut capability = [0_u8; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 4);
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(at(path), name, value, XattrFlags::empty()).is_ok()
    };
    if !set("program", "security.capability", &capability) {
        return; // This machine lets nobody give capabilities.
    }
    set("other", "user.note", b"hello");
    let service = tree.service().await;
    let made = finished(&build(&service, tree.request()).await).image_id;
    assert_eq!(made, by_docker(&tree, &[]));
    let layers = docker(&["image", "inspect", "-f", "{{len .RootFS.Layers}}", &made]);
    set(
        "program",
        "security.capability",
        &[1, 0, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    let other = finished(&build(&service, tree.request()).await).image_id;
    assert_ne!(made, other, "another capability is another image: {layers} layers");
}
