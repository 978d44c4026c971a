//! Filters, pages and bad questions.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_filtered_by_text_expression_stream_and_time() {
    let service = Service::start().await.synced().await;
    let name = unique("filter");
    run(&service, &name, "seq 1000; echo Warning: hot >&2; exec sleep 1000").await;
    reaches(&service, &name, 1001).await;
    for (filter, expected) in [
        (r#""contains":"99""#, 19),
        (r#""containsIgnoreCase":"WARNING""#, 1),
        (r#""contains":"WARNING""#, 0),
        (r#""regex":"^1\\d0$""#, 10),
        (r#""regex":"^1\\d0$","contains":"5""#, 1),
        (r#""streams":["LOG_STREAM_STDERR"]"#, 1),
        (r#""streams":["LOG_STREAM_STDOUT"],"contains":"o""#, 0),
        (r#""limit":7"#, 7),
        (r#""pageSize":7,"limit":3"#, 3),
        (r#""since":"2100-01-01T00:00:00Z""#, 0),
        (r#""until":"2000-01-01T00:00:00Z""#, 0),
        (r#""nodeId":"another""#, 0),
        (r#""label":"container-svc-test","limit":1"#, 1),
        (r#""label":"no-such-label""#, 0),
    ] {
        let body = format!(r#"{{"name":"{name}",{filter}}}"#);
        let (status, answer) = service.rest("POST", "/container-svc/logs", &body).await;
        assert_eq!(status, 200, "{filter}: {answer}");
        assert_eq!(answer["logs"].as_array().expect("a list").len(), expected, "{filter}");
    }
    let pattern = format!(r#"{{"namePattern":"{}*","limit":2}}"#, &name[..name.len() - 1]);
    let (_, answer) = service.rest("POST", "/container-svc/logs", &pattern).await;
    assert_eq!(answer["logs"].as_array().expect("a list").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_both_ways_while_the_log_grows() {
    let service = Service::start().await.synced().await;
    let name = unique("pages");
    run(&service, &name, "seq 95; while read line; do :; done < /dev/zero; sleep 1000").await;
    reaches(&service, &name, 95).await;
    let mut client = client(&service).await;
    let request = pb::ListLogsRequest { name: name.clone(), page_size: 10, ..Default::default() };
    let (mut forth, mut token, mut firsts) = (Vec::new(), String::new(), Vec::new());
    loop {
        let request = pb::ListLogsRequest { page_token: token, ..request.clone() };
        let page = client.list_logs(request).await.expect("a page").into_inner();
        firsts.push(page.previous_page_token);
        forth.extend(page.logs.iter().map(|log| log.content.parse::<u32>().expect("a number")));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(forth, (1..=95).rev().collect::<Vec<_>>(), "the newest first");

    // Back from the last page, against the order.
    let (mut back, mut token) = (Vec::new(), firsts.pop().expect("a token"));
    loop {
        let request = pb::ListLogsRequest { page_token: token, ..request.clone() };
        let page = client.list_logs(request).await.expect("a page").into_inner();
        if page.logs.is_empty() {
            token = page.previous_page_token;
            break;
        }
        let numbers = page.logs.iter().map(|log| log.content.parse::<u32>().expect("a number"));
        back.splice(0..0, numbers);
        token = page.previous_page_token;
    }
    assert_eq!(back, (6..=95).rev().collect::<Vec<_>>());

    // What is written later is on the page before the first.
    let other = unique("pages");
    run(&service, &other, "exec sleep 1000").await;
    crate::support::docker(&["exec", &name, "sh", "-c", "echo 96 > /proc/1/fd/1"]);
    reaches(&service, &name, 96).await;
    let request = pb::ListLogsRequest { page_token: token, ..request };
    let page = client.list_logs(request).await.expect("a page").into_inner();
    let contents: Vec<_> = page.logs.iter().map(|log| log.content.as_str()).collect();
    assert_eq!(contents, ["96"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_question_is_told_what_is_wrong_with_it() {
    let service = Service::start().await.synced().await;
    let name = unique("bad");
    run(&service, &name, "seq 30; exec sleep 1000").await;
    reaches(&service, &name, 30).await;
    let page = format!(r#"{{"name":"{name}","pageSize":10}}"#);
    let (_, answer) = service.rest("POST", "/container-svc/logs", &page).await;
    let token = answer["nextPageToken"].as_str().expect("a token").to_owned();
    let broken = &token[2..];
    for (body, status, part) in [
        (r#"{"name":"nobody-here"}"#.to_owned(), 404, "nobody-here"),
        (r#"{"hash":"v1:none"}"#.to_owned(), 404, "v1:none"),
        (r#"{"containerId":"ffffffffffff"}"#.to_owned(), 404, "ffffffffffff"),
        (r#"{"containerId":"f"}"#.to_owned(), 400, "too short"),
        (r#"{"regex":"a(b"}"#.to_owned(), 400, "^"),
        (format!(r#"{{"regex":"{}"}}"#, "a".repeat(2000)), 400, "1024"),
        (r#"{"regex":"(?:(?:a{100}){100}){100}"}"#.to_owned(), 400, "regex"),
        (r#"{"pageSize":-1}"#.to_owned(), 400, "pageSize"),
        (r#"{"pageSize":10001}"#.to_owned(), 400, "10000"),
        (r#"{"limit":-5}"#.to_owned(), 400, "limit"),
        (r#"{"limit":2147483647}"#.to_owned(), 400, "limit"),
        (r#"{"limit":"many"}"#.to_owned(), 400, "limit"),
        (
            r#"{"since":"2026-01-02T00:00:00Z","until":"2026-01-01T00:00:00Z"}"#.to_owned(),
            400,
            "until",
        ),
        (r#"{"since":"yesterday"}"#.to_owned(), 400, "since"),
        (r#"{"since":"0001-01-01T00:00:00Z"}"#.to_owned(), 400, "since"),
        (r#"{"streams":["LOG_STREAM_UNSPECIFIED"]}"#.to_owned(), 400, "streams"),
        (format!(r#"{{"name":"{name}","pageToken":"{broken}"}}"#), 400, "pageToken"),
        (r#"{"pageToken":"!"}"#.to_owned(), 400, "pageToken"),
        (
            format!(r#"{{"name":"{name}","contains":"x","pageToken":"{token}"}}"#),
            400,
            "another query",
        ),
    ] {
        let (got, answer) = service.rest("POST", "/container-svc/logs", &body).await;
        assert_eq!(got, status, "{body}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{body}: {message}");
    }
    for (query, part) in [
        ("cursor=zzz", "cursor"),
        ("cursor=1-1", "gone"),
        ("lastLines=-1", "lastLines"),
        ("lastLines=10001", "10000"),
        ("lastLines=1&since=2026-01-01T00:00:00Z", "only one"),
        ("heartbeat=0s", "heartbeat"),
        ("maxLag=-1", "maxLag"),
        ("regex=%5B", "regex"),
    ] {
        let path = format!("/container-svc/logs/tail?{query}");
        let (got, answer) = service.get(&path).await;
        assert_eq!(got, 400, "{query}: {answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{query}: {message}");
    }
    assert_eq!(service.get("/container-svc/logs/tail?name=nobody-here").await.0, 404);
}
