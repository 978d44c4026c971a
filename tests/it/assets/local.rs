//! Files of this machine, only below the folders that the configuration allows, and of
//! File Svc, when there is one.

use std::os::unix::fs::symlink;

use super::{
    source::{Source, give, say},
    *,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_only_from_below_its_root() {
    let dir = tempfile::tempdir().expect("a folder");
    let (root, outside) = (dir.path().join("root"), dir.path().join("secret"));
    fs::create_dir_all(root.join("deep")).expect("a folder");
    fs::write(root.join("deep/a.txt"), "fine").expect("a file");
    fs::write(&outside, "secret").expect("a file");
    symlink(&outside, root.join("link")).expect("a link");
    symlink(dir.path(), root.join("folder")).expect("a link");
    symlink("deep/a.txt", root.join("inside")).expect("a link");
    assert!(std::process::Command::new("mkfifo").arg(root.join("pipe")).status().is_ok());
    let service = Service::with(|config| {
        lenient(config);
        config.asset_file_roots = vec![root.clone()];
    })
    .await
    .synced()
    .await;
    let url = |path: &str| format!("file://{}", root.join(path).display());
    for (url, words) in [
        (url("link"), "by a link"),
        (url("folder/secret"), "by a link"),
        (url("deep/%2e%2e/%2e%2e/secret"), "asset_file_roots"),
        (format!("file://{}", outside.display()), "asset_file_roots"),
        (url("deep"), "regular file"),
        (url("pipe"), "regular file"),
        (url("nothing"), "cannot be read"),
        ("file:///dev/zero".to_owned(), "asset_file_roots"),
    ] {
        let told = refused(&service, json!([{"envVarKey": "A", "url": url}])).await;
        assert!(told.contains(words), "{words} in {told}");
        assert!(!told.contains("No such"), "{told}");
    }
    assert_eq!(files(&service, "files"), [""; 0]);

    let name = unique("asset");
    let assets = [asset("A", &url("deep/a.txt")), asset("B", &url("inside"))];
    run(&service, with(&service, &name, &assets)).await;
    assert_eq!(exec(&name, "echo $A; cat $A $B"), "/assets/A/a.txt\nfinefine");

    // The cache has a copy; only a refresh looks at the file again.
    fs::write(root.join("deep/a.txt"), "newer").expect("a file");
    let same = run(&service, with(&service, &name, &assets)).await;
    assert_eq!(same.action(), pb::RunAction::Unchanged);
    let fresh = assets.map(|asset| pb::Asset { refresh: Some(true), ..asset });
    let newer = run(&service, with(&service, &name, &fresh)).await;
    assert_eq!(newer.differing_fields, ["assets"]);
    assert_eq!(exec(&name, "cat $A $B"), "newernewer");
    let same = run(&service, with(&service, &name, &fresh)).await;
    assert_eq!(same.action(), pb::RunAction::Unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_copied_is_copied_anew() {
    const LENGTH: usize = 64 << 20;
    let dir = tempfile::tempdir().expect("a folder");
    let service = Service::with(|config| {
        lenient(config);
        config.asset_file_roots = vec![dir.path().to_owned()];
    })
    .await
    .synced()
    .await;
    let file = dir.path().join("a.bin");
    fs::write(&file, vec![1; LENGTH]).expect("a file");
    let name = unique("asset");
    let request = with(&service, &name, &[asset("A", &format!("file://{}", file.display()))]);
    let mut client = service.grpc().await;
    let parts = || {
        files(&service, "parts")
            .iter()
            .any(|part| fs::metadata(part).is_ok_and(|about| about.len() > 1 << 20))
    };
    let (ended, ()) = tokio::join!(client.run_container(request), async {
        eventually("it is being copied", || async { parts() }).await;
        // In place, so that what was opened before has it too.
        let changed = fs::File::options().write(true).open(&file).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&changed, &[2; 4096], 0).expect("written");
    });
    ended.expect("it runs");
    let now = sha256(&fs::read(&file).expect("a file"));
    assert_eq!(exec(&name, "sha256sum < $A").split(' ').next(), Some(now.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn file_svc_is_asked_first_and_the_source_for_what_it_has_not() {
    let origin = Source::of(b"from the source".to_vec(), "\"a\"").await;
    let (known, unknown) = (origin.url("/a b?x=1"), origin.url("/b"));
    let path = "/file-svc/serve/download/";
    let file_svc = Source::start(move |asked, mut stream| async move {
        match asked.path.ends_with("%2Fb") {
            true => say(&mut stream, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await,
            false => give(&asked, &mut stream, b"from File Svc", "\"f\"").await,
        }
    })
    .await;
    let service = Service::with(|config| {
        lenient(config);
        config.asset_file_svc = Some(file_svc.url(""));
    })
    .await
    .synced()
    .await;
    let name = unique("asset");
    run(&service, with(&service, &name, &[asset("A", &known), asset("B", &unknown)])).await;
    assert_eq!(
        exec(&name, "echo \"$A\"; cat \"$A\"; echo; cat $B"),
        "/assets/A/a b\nfrom File Svc\nfrom the source"
    );
    let mut paths: Vec<_> = file_svc.seen().into_iter().map(|asked| asked.path).collect();
    paths.sort();
    let host = format!("{path}http%3A%2F%2F127%2E0%2E0%2E1%3A{}", origin.address.port());
    assert_eq!(paths, [format!("{host}%2Fa%2520b%3Fx%3D1"), format!("{host}%2Fb")]);
    assert_eq!(origin.seen().len(), 1);

    // Who asks for what is newest is told by the source, also of what File Svc had.
    let fresh = |key: &str, url: &str| pb::Asset { refresh: Some(true), ..asset(key, url) };
    let newer = [fresh("A", &known), fresh("B", &unknown), fresh("C", &origin.url("/c"))];
    run(&service, with(&service, &name, &newer)).await;
    assert_eq!(exec(&name, "cat \"$A\"; echo; cat $C"), "from the source\nfrom the source");
    assert_eq!((file_svc.seen().len(), origin.seen().len()), (2, 4));
    assert_eq!(
        origin.seen()[1..].iter().filter(|it| !it.header("if-none-match").is_empty()).count(),
        1
    );
}
