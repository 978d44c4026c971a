//! What a build may ask for, and what is told of it.

use super::*;

#[test]
fn all_that_is_wrong_is_told_at_once_and_no_secret() {
    let secret = || Secret(b"hush".to_vec());
    let request = BuildRequest {
        name: "UPPER".into(),
        tags: vec!["a:1".into(), format!("a@sha256:{}", "0".repeat(64))],
        args: vec![("a=b".into(), String::new()), ("x".into(), "1".into())],
        secrets: vec![("s".into(), secret()), ("s".into(), secret()), ("a/b".into(), secret())],
        cache_from: vec!["b:".into()],
        ..Default::default()
    };
    assert!(!format!("{request:?}").contains("hush"));
    let error = BuildSpec::resolve(request, &Rules::default()).unwrap_err();
    let fields: Vec<_> = error.violations().iter().map(|wrong| wrong.field.as_str()).collect();
    let expected = [
        "name",
        "tags[1]",
        "cacheFrom[0]",
        "contextPath",
        "buildArgs[0]",
        "secrets[1]",
        "secrets[2]",
    ];
    assert_eq!(fields, expected, "{error}");
}

#[test]
fn what_would_not_fit_into_the_question_to_the_engine_is_refused_by_its_field() {
    let of = |value: String, more: Vec<(String, String)>| BuildRequest {
        name: "a".into(),
        context_path: "/x".into(),
        args: vec![("x".into(), value)],
        labels: more,
        ..Default::default()
    };
    let resolve = |request| BuildSpec::resolve(request, &Rules::default());
    assert!(resolve(of("x".repeat(60_000), Vec::new())).is_ok());
    for (value, more) in [
        ("x".repeat(70_000), Vec::new()),
        ("\u{e4}".repeat(12_000), Vec::new()),
        ("\n".repeat(9_000), Vec::new()),
    ] {
        let error = resolve(of(value, more)).unwrap_err();
        assert_eq!(error.kind(), crate::domain::Kind::InvalidArgument);
        assert_eq!(error.violations()[0].field, "buildArgs", "{error}");
    }
    let labels = (0..100).map(|at| (format!("l{at}"), "v".repeat(700))).collect();
    let error = resolve(of("x".into(), labels)).unwrap_err();
    assert_eq!(error.violations()[0].field, "labels", "{error}");
}

#[test]
fn a_build_has_one_source_and_its_credentials_are_never_printed() {
    let upload = || Some(Given::Upload("0".repeat(32)));
    let login = || Login { username: "u".into(), password: Secret(b"hush".to_vec()) };
    let request = |source, path: &str, hosts: &[&str]| BuildRequest {
        name: "a".into(),
        context_path: path.into(),
        source,
        logins: hosts.iter().map(|host| ((*host).to_owned(), login())).collect(),
        ..Default::default()
    };
    let rules = Rules::default();
    let both = request(upload(), "/x", &[]);
    let error = BuildSpec::resolve(both, &rules).unwrap_err();
    assert_eq!(error.violations()[0].field, "source", "{error}");
    let twice = request(upload(), "", &["docker.io", "https://index.docker.io/v1/"]);
    assert!(!format!("{twice:?}").contains("hush"));
    let error = BuildSpec::resolve(twice, &rules).unwrap_err();
    assert_eq!(error.violations()[0].field, "credentials[1]", "{error}");
    let good = request(upload(), "", &["localhost:5000"]);
    assert!(BuildSpec::resolve(good, &rules).unwrap().logins.contains_key("localhost:5000"));
}

#[test]
fn a_name_counts_once() {
    let request = BuildRequest {
        name: "a".into(),
        tags: vec!["docker.io/library/a:latest".into(), "a:2".into()],
        context_path: "/x".into(),
        ..Default::default()
    };
    let spec = BuildSpec::resolve(request, &Rules::default()).unwrap();
    let names: Vec<_> = spec.names.iter().map(ImageRef::familiar).collect();
    assert_eq!(names, ["a:latest", "a:2"]);
}
