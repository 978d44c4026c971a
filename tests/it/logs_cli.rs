//! `container-svc logs`, the real program, before a service that says what each
//! test wants: lost connections and slow ends cannot be had on demand otherwise.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use container_svc::rpc::pb::{
    self,
    log_service_server::{LogService, LogServiceServer},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    runtime::Runtime,
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use crate::support::{DEADLINE, eventually};

/// How one call of TailLogs is answered.
#[derive(Debug, Clone)]
struct Answer {
    /// Name or pattern that it is for; empty for any.
    to: &'static str,
    messages: Vec<pb::TailLogsResponse>,
    end: End,
}

#[derive(Debug, Clone)]
enum End {
    Complete,
    Fail(Status),
    /// Says nothing more.
    Stay,
}

#[derive(Debug, Default)]
struct Script {
    answers: VecDeque<Answer>,
    tails: Vec<pb::TailLogsRequest>,
    lists: Vec<pb::ListLogsRequest>,
    pages: VecDeque<pb::ListLogsResponse>,
}

#[derive(Debug, Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

type Messages = ReceiverStream<Result<pb::TailLogsResponse, Status>>;

#[tonic::async_trait]
impl LogService for Scripted {
    type TailLogsStream = Messages;

    async fn list_logs(
        &self,
        request: Request<pb::ListLogsRequest>,
    ) -> Result<Response<pb::ListLogsResponse>, Status> {
        let mut script = self.0.lock().expect("the script");
        script.lists.push(request.into_inner());
        Ok(Response::new(script.pages.pop_front().expect("a page")))
    }

    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    async fn tail_logs(
        &self,
        request: Request<pb::TailLogsRequest>,
    ) -> Result<Response<Messages>, Status> {
        let answer = {
            let mut script = self.0.lock().expect("the script");
            let request = request.into_inner();
            let asked = [request.name.as_str(), request.name_pattern.as_str(), ""];
            let fits = script.answers.iter().position(|answer| asked.contains(&answer.to));
            script.tails.push(request.clone());
            fits.and_then(|at| script.answers.remove(at))
                .ok_or_else(|| Status::not_found("no log of that"))?
        };
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            for message in answer.messages {
                if send.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            match answer.end {
                End::Complete => {}
                End::Fail(status) => drop(send.send(Err(status)).await),
                End::Stay => send.closed().await,
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

impl Scripted {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let scripted = Self::default();
        scripted.then(answers);
        scripted
    }

    fn then(&self, answers: impl IntoIterator<Item = Answer>) {
        self.0.lock().expect("the script").answers.extend(answers);
    }

    fn tails(&self) -> Vec<pb::TailLogsRequest> {
        self.0.lock().expect("the script").tails.clone()
    }

    /// Serves at an address; port 0 is any.
    fn serve(&self, at: SocketAddr) -> Serving {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = std::net::TcpListener::bind(at).expect("a port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a listener");
        let service = Server::builder().add_service(LogServiceServer::new(self.clone()));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            drop(service.serve_with_incoming(TcpListenerStream::new(listener)).await);
        });
        Serving { address, runtime: Some(runtime) }
    }
}

/// A service on a runtime of its own: when it is dropped, its connections break too.
struct Serving {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn log(container: &str, position: i64, content: &str) -> pb::Log {
    let stream = match content.starts_with("err") {
        true => pb::LogStream::Stderr,
        false => pb::LogStream::Stdout,
    };
    pb::Log {
        id: format!("{container}-{position}"),
        container_id: container.into(),
        created_at: Some(prost_types::Timestamp { seconds: position, nanos: 0 }),
        content: content.into(),
        stream: Some(stream.into()),
        position: Some(position),
        ..Default::default()
    }
}

fn lines(cursor: &str, logs: Vec<pb::Log>) -> pb::TailLogsResponse {
    let r#type = pb::TailEventType::Lines.into();
    pb::TailLogsResponse { r#type, logs, cursor: cursor.into(), missed: None }
}

fn caught_up(cursor: &str) -> pb::TailLogsResponse {
    let r#type = pb::TailEventType::CaughtUp.into();
    pb::TailLogsResponse { r#type, cursor: cursor.into(), ..Default::default() }
}

fn answer(messages: Vec<pb::TailLogsResponse>, end: End) -> Answer {
    Answer { to: "", messages, end }
}

fn program(address: SocketAddr, args: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_container-svc"));
    program.args(["--address", &address.to_string(), "--token", "t", "logs"]).args(args);
    program.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    program
}

async fn run(address: SocketAddr, args: &[&str]) -> (i32, String, String) {
    let ended = tokio::time::timeout(DEADLINE, program(address, args).output()).await;
    told(&ended.expect("it ends").expect("it runs"))
}

fn told(out: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

async fn ends(child: Child) -> (i32, String, String) {
    let ended = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    told(&ended.expect("it ends").expect("it runs"))
}

async fn read_line(child: &mut Child) -> String {
    let mut stdout = child.stdout.take().expect("piped");
    let mut line = Vec::new();
    let read = async {
        while !line.ends_with(b"\n") {
            line.push(stdout.read_u8().await.expect("a byte"));
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("a line in time");
    child.stdout = Some(stdout);
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

fn interrupt(child: &Child) {
    let id = child.id().expect("it runs").to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status();
    assert!(sent.expect("kill runs").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_container_is_printed_as_docker_does() {
    let all = vec![log("c", 0, "a"), log("c", 1, "err b"), log("c", 2, "c")];
    let service = Scripted::answering([answer(vec![lines("1", all)], End::Complete)]);
    let serving = service.serve(any());
    let address = serving.address;
    let (code, stdout, stderr) = run(address, &["web"]).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "a\nc\n", "err b\n"));
    let tail = service.tails().remove(0);
    assert_eq!((tail.name.as_str(), tail.no_follow), ("web", true));
    assert_eq!(tail.since, Some(prost_types::Timestamp::default()), "from the first line on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_goes_on_after_the_last_line_when_the_connection_is_lost() {
    let first = [caught_up("0"), lines("7", vec![log("c", 0, "a")])];
    let unavailable = Status::unavailable("going down");
    let service = Scripted::answering([
        answer(first.to_vec(), End::Fail(unavailable)),
        // It does not keep the new one up either, and says nothing.
        answer(vec![], End::Complete),
        answer(vec![lines("8", vec![log("c", 1, "b")])], End::Stay),
    ]);
    let serving = service.serve(any());
    let address = serving.address;
    let mut child = program(address, &["-f", "-n", "5", "web"]).spawn().expect("it runs");
    assert_eq!(read_line(&mut child).await, "a");
    assert_eq!(read_line(&mut child).await, "b");
    // Now the whole service goes and comes again.
    drop(serving);
    service.then([answer(vec![lines("9", vec![log("c", 2, "c")])], End::Stay)]);
    let again = || std::net::TcpListener::bind(address).is_ok();
    eventually("the port is free", || std::future::ready(again())).await;
    let _serving = service.serve(address);
    assert_eq!(read_line(&mut child).await, "c");
    interrupt(&child);
    let (code, _, stderr) = ends(child).await;
    assert_eq!(code, 0, "Ctrl-C is how it ends: {stderr}");
    assert!(stderr.contains("web: going down; trying to go on"), "{stderr}");
    assert!(stderr.contains("web: going on"), "{stderr}");
    let asked = service.tails().into_iter().map(|tail| (tail.last_lines, tail.cursor));
    let cursors = [(Some(5), ""), (None, "7"), (None, "7"), (None, "8")];
    assert!(asked.eq(cursors.map(|(last, cursor)| (last, cursor.to_owned()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_ends_when_the_service_refuses_to_go_on() {
    let service = Scripted::answering([
        answer(vec![lines("1", vec![log("c", 0, "a")])], End::Complete),
        answer(vec![], End::Fail(Status::unauthenticated("revoked"))),
    ]);
    let serving = service.serve(any());
    let address = serving.address;
    let (code, stdout, stderr) = run(address, &["-f", "web"]).await;
    assert_eq!((code, stdout.as_str()), (4, "a\n"), "{stderr}");
    assert!(stderr.contains("revoked"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_containers_have_prefixes_and_one_that_is_unknown_does_not_stop_the_others() {
    let of = |to, container: &str| Answer {
        to,
        ..answer(vec![lines("1", vec![log(&container.repeat(64), 0, container)])], End::Complete)
    };
    let service = Scripted::answering([of("web-*", "a"), of("database", "b")]);
    let serving = service.serve(any());
    let address = serving.address;
    // Nobody here knows containers: a word stands for the one that it names.
    let (code, stdout, stderr) = run(address, &["web-*", "database", "nobody"]).await;
    assert_eq!(code, 3);
    assert!(stderr.contains("error: nobody: no log of that"), "{stderr}");
    let shown = |prefix: &str| stdout.lines().any(|line| line.starts_with(prefix));
    assert!(shown("aaaaaaaaaaaa | a"), "{stdout}");
    assert!(shown("database | b") || shown("database     | b"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_a_failure_is_printed() {
    let logs: Vec<pb::Log> = (0..100).map(|n| log("c", n, &n.to_string())).collect();
    let messages = logs.chunks(10).map(|logs| lines("1", logs.to_vec())).collect();
    let failed = End::Fail(Status::data_loss("the store is damaged"));
    let service = Scripted::answering([answer(messages, failed)]);
    let serving = service.serve(any());
    let address = serving.address;
    let (code, stdout, stderr) = run(address, &["web"]).await;
    assert_eq!((code, stdout.lines().count()), (1, 100), "{stderr}");
    assert!(stderr.contains("the store is damaged"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_it_quietly() {
    let many = |n: i64| lines("1", (0..1_000).map(|m| log("c", n * 1_000 + m, "line")).collect());
    let service = Scripted::answering([answer((0..100).map(many).collect(), End::Stay)]);
    let serving = service.serve(any());
    let address = serving.address;
    let mut child = program(address, &["-f", "web"]).spawn().expect("it runs");
    assert_eq!(read_line(&mut child).await, "line");
    drop(child.stdout.take());
    let (code, _, stderr) = ends(child).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_it_even_while_nobody_takes_its_lines() {
    let many = |n: i64| lines("1", (0..1_000).map(|m| log("c", n * 1_000 + m, "line")).collect());
    let service = Scripted::answering([answer((0..1_000).map(many).collect(), End::Stay)]);
    let serving = service.serve(any());
    let address = serving.address;
    let mut child = program(address, &["-f", "web"]).spawn().expect("it runs");
    assert_eq!(read_line(&mut child).await, "line");
    let stdout = child.stdout.take();
    interrupt(&child);
    let status = tokio::time::timeout(DEADLINE, child.wait()).await.expect("it ends");
    assert_eq!(status.expect("a status").code(), Some(0));
    drop(stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_line_each_and_what_was_missed_is_beside_it() {
    let missed = pb::TailLogsResponse {
        r#type: pb::TailEventType::Missed.into(),
        missed: Some(9),
        cursor: "2".into(),
        ..Default::default()
    };
    let messages = vec![lines("1", vec![log("c", 0, "err a")]), missed];
    let service = Scripted::answering([answer(messages, End::Complete)]);
    let serving = service.serve(any());
    let address = serving.address;
    let (code, stdout, stderr) = run(address, &["web", "--json"]).await;
    let line: serde_json::Value = serde_json::from_str(&stdout).expect("one line of JSON");
    assert_eq!((code, &line["content"], &line["position"]), (0, &"err a".into(), &"0".into()));
    assert!(stderr.starts_with("--- 9 lines left out"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_before_a_time_come_in_pages_and_in_order() {
    let service = Scripted::default();
    let page = |logs: Vec<pb::Log>, next: &str| pb::ListLogsResponse {
        logs,
        next_page_token: next.into(),
        ..Default::default()
    };
    service.0.lock().expect("the script").pages.extend([
        page(vec![log("c", 5, "f"), log("c", 4, "e")], "p1"),
        // A search that took long ends a page without a line.
        page(vec![], "p2"),
        page(vec![log("c", 3, "d"), log("c", 2, "c")], "p3"),
    ]);
    let serving = service.serve(any());
    let address = serving.address;
    let args = ["web", "-n", "3", "--until", "2026-01-31T12:00:00Z"];
    let (code, stdout, stderr) = run(address, &args).await;
    assert_eq!((code, stdout.as_str()), (0, "d\ne\nf\n"), "{stderr}");
    let lists = service.0.lock().expect("the script").lists.clone();
    let tokens: Vec<&str> = lists.iter().map(|list| list.page_token.as_str()).collect();
    assert_eq!(tokens, ["", "p1", "p2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_follow_prints_each_line_when_it_comes() {
    let service = Scripted::answering([answer(
        vec![caught_up("0"), lines("1", vec![log("c", 0, "now")])],
        End::Stay,
    )]);
    let serving = service.serve(any());
    let address = serving.address;
    let mut child = program(address, &["-f", "-n", "0", "web"]).spawn().expect("it runs");
    let stdout = child.stdout.take().expect("piped");
    let mut printed = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(Duration::from_secs(10), printed.next_line()).await;
    assert_eq!(line.expect("in time").expect("a line").as_deref(), Some("now"));
    eventually("it is asked for no old line", || async {
        service.tails().first().is_some_and(|tail| tail.last_lines == Some(0))
    })
    .await;
}
