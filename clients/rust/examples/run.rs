//! Runs a container, prints what it writes until it ends, and its exit code.
//!
//!     cargo run --example run -- IMAGE COMMAND...

#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::{env, error::Error, time::SystemTime};

use container_svc_client::{Client, pb};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [image, command @ ..] = words.as_slice() else {
        return Err("usage: run IMAGE COMMAND...".into());
    };
    let client = Client::builder(env::var("CONTAINER_SVC_ADDRESS")?)
        .token(env::var("CONTAINER_SVC_TOKEN")?)
        .connect()
        .await?;

    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let request = pb::RunContainerRequest {
        image: image.clone(),
        names: vec![format!("example-rust-{time}")],
        command: command.to_vec(),
        restart_policy: pb::RestartPolicy::Never.into(),
        ..Default::default()
    };
    let id = client.containers().run_container(request).await?.into_inner().id;
    let code = follow(&client, &id).await;
    let remove = pb::RemoveContainerRequest { id, force: true, ..Default::default() };
    client.containers().remove_container(remove).await?;
    println!("exit code {}", code?);
    Ok(())
}

async fn follow(client: &Client, id: &str) -> Result<i32, Box<dyn Error>> {
    let request = pb::TailLogsRequest {
        container_id: id.to_owned(),
        last_lines: Some(10_000),
        heartbeat: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let mut tail = client.logs().tail_logs(request).await?.into_inner();
    let mut ended = false;
    while let Some(message) = tail.message().await? {
        for line in &message.logs {
            println!("{}", line.content);
        }
        if message.r#type() != pb::TailEventType::Heartbeat {
            continue;
        }
        // A second of silence. Once more after its end, and all has come.
        let request = pb::GetContainerRequest { id: id.to_owned(), ..Default::default() };
        let answer = client.containers().get_container(request).await?.into_inner();
        let container = answer.container.ok_or("no container in the answer")?;
        if ended {
            return Ok(container.exit_code());
        }
        ended = container.state() == pb::ContainerState::Exited;
    }
    Err("the tail ended before the container".into())
}
