//! What the rules of assets promise.

use proptest::prelude::*;

use super::*;

fn open() -> Policy {
    Policy {
        http_hosts: ["plain.example", "ported.example:8080", "*.sub.example", "127.0.0.1"]
            .into_iter()
            .map(|rule| HostRule::parse(rule).expect("a rule"))
            .collect(),
        addresses: vec![Range::parse("127.0.0.0/8").expect("a range")],
        file_roots: vec!["/srv/models".into()],
    }
}

fn given(url: &str) -> Given {
    Given { env_var_key: "MODEL".into(), url: url.into(), ..Given::default() }
}

fn refused(policy: &Policy, url: &str) -> String {
    policy.source(url).expect_err(url)
}

#[test]
fn only_what_the_policy_allows_is_a_source() {
    let (strict, open) = (Policy::default(), open());
    for url in ["https://host.example/a", "https://10.0.0.1/a", "https://[fd00::1]/a"] {
        assert!(strict.source(url).is_ok(), "{url}");
    }
    for url in [
        "http://plain.example/a",
        "http://PLAIN.example:81/a",
        "http://ported.example:8080/a",
        "http://x.sub.example/a",
        "http://127.0.0.1:5000/a",
        "file:///srv/models/a.gguf",
        "file://localhost/srv/models/deep/a",
    ] {
        assert!(open.source(url).is_ok(), "{url}");
        assert!(strict.source(url).is_err(), "{url}");
    }
    for url in ["http://ported.example/a", "http://sub.example/a", "http://other.example/a"] {
        assert!(refused(&open, url).contains("asset_allow_http"), "{url}");
    }
}

#[test]
fn a_refusal_names_its_rule() {
    for (url, words) in [
        ("", "no URL"),
        ("model.gguf", "no URL"),
        ("ftp://host/a", "scheme \"ftp\""),
        ("ftp://user:secret@host/a", "user name"),
        ("user:secret@host/a", "scheme"),
        ("https://user:secret@host:99999/a?sig=secret", "no URL"),
        ("data:text/plain,x", "scheme \"data\""),
        ("https://user:secret@host/a", "user name"),
        ("http://host/a?sig=x", "?[redacted]"),
        ("https://127.0.0.1/a", "loopback"),
        ("https://2130706433/a", "loopback"),
        ("https://0x7f.1/a", "loopback"),
        ("https://0177.0.0.1/a", "loopback"),
        ("https://[::ffff:127.0.0.1]/a", "loopback"),
        ("https://0/a", "unspecified"),
        ("https://[::]/a", "unspecified"),
        ("https://169.254.169.254/latest/meta-data", "link-local"),
        ("https://[fd00:ec2::254]/latest", "metadata"),
        ("https://100.100.100.200/latest", "metadata"),
        ("file:///etc/passwd", "asset_file_roots"),
        ("file://other.host/srv/models/a", "this machine"),
    ] {
        let why = refused(&Policy::default(), url);
        assert!(why.contains(words), "{url}: {why}");
        assert!(!why.contains("secret"), "{why}");
    }
    for url in [
        "file:///srv/models",
        "file:///srv/models2/a",
        "file:///srv/models/../../etc/passwd",
        "file:///srv/models/%2e%2e/x",
        "file:///srv/models/..%2f..%2fetc/passwd",
    ] {
        assert!(refused(&open(), url).contains("asset_file_roots"), "{url}");
    }
}

#[test]
fn the_file_name_and_its_end_are_kept_in_the_container() {
    for (url, path) in [
        ("https://h/models/llama-7b.Q4.gguf?sig=1#x", "/assets/MODEL/llama-7b.Q4.gguf"),
        ("https://h/a%20b%20(1),c.bin", "/assets/MODEL/a b (1),c.bin"),
        ("https://h/%2e%2e%2fetc", "/assets/MODEL/.._etc"),
        ("https://h/dir/", "/assets/MODEL/dir"),
        ("https://h", "/assets/MODEL/asset"),
        ("https://h/%00%0a.txt", "/assets/MODEL/__.txt"),
        ("https://h/\u{e9}.txt", "/assets/MODEL/\u{e9}.txt"),
    ] {
        assert_eq!(Asset::resolve(given(url), 0, &open()).expect(url).path, path);
    }
    let long = format!("https://h/{}.safetensors", "\u{e9}".repeat(300));
    let path = Asset::resolve(given(&long), 0, &open()).expect("long").path;
    assert!(path.len() <= 16 + LONGEST_NAME && path.ends_with("\u{e9}.safetensors"), "{path}");
}

#[test]
fn each_wrong_part_is_told() {
    let wrong = |change: fn(&mut Given)| {
        let mut given = given("https://h/a");
        change(&mut given);
        Asset::resolve(given, 0, &open()).expect_err("wrong").remove(0)
    };
    let some = |text: &str| text.to_owned();
    for (got, field, words) in [
        (wrong(|g| g.env_var_key = "A=B".into()), "envVarKey", some("A=B")),
        (wrong(|g| g.env_var_key = "../x".into()), "envVarKey", some("../x")),
        (wrong(|g| g.env_var_key.clear()), "envVarKey", some("1 to 128")),
        (wrong(|g| g.sha256 = Some("abc".into())), "sha256", some("64")),
        (wrong(|g| g.mode = Some("0644".into())), "mode", some("0444")),
        (wrong(|g| g.mode = Some("4555".into())), "mode", some("0444")),
        (wrong(|g| g.mode = Some("rwx".into())), "mode", some("0444")),
        (wrong(|g| g.mode = Some("0111".into())), "mode", some("read")),
        (wrong(|g| g.path = Some("models/a".into())), "path", some("absolute")),
        (wrong(|g| g.path = Some("/models/".into())), "path", some("folder")),
        (wrong(|g| g.path = Some("/a/../b".into())), "path", some("..")),
        (wrong(|g| g.path = Some("/proc/self/exe".into())), "path", some("kernel")),
    ] {
        assert!(got.0 == field && got.1.contains(&words), "{got:?}");
    }
}

#[test]
fn one_form_has_one_id() {
    let id_of = |url: &str| Asset::resolve(given(url), 0, &open()).expect(url).id();
    assert_eq!(id_of("HTTPS://Host.Example:443/a#b"), id_of("https://host.example/a"));
    assert_ne!(id_of("https://host.example/a?x"), id_of("https://host.example/a"));
    assert_eq!(id("https://host.example/a").len(), 32);
    let file = cache_file(&"a".repeat(64), 0o555);
    assert_eq!(content_of(&file), Some("a".repeat(64).as_str()));
    assert_eq!(content_of("x-0444"), None);
}

proptest! {
    #[test]
    fn whatever_a_url_says_the_default_path_is_one_file_below_its_folder(url in "https://h/\\PC{0,300}") {
        if let Ok(asset) = Asset::resolve(given(&url), 0, &Policy::default()) {
            let name = asset.path.strip_prefix("/assets/MODEL/").expect("below");
            prop_assert!(!name.is_empty() && !name.contains('/') && name != ".." && name != ".");
            prop_assert!(name.len() <= LONGEST_NAME && !name.chars().any(char::is_control));
        }
    }
}
