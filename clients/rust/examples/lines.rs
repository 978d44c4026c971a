//! The lines of the README as a program, so that they compile.
//! tests/it/clients/rust.rs compares the two.

#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::{env, error::Error};

use container_svc_client::{Client, Explain, pb};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let token = env::var("CONTAINER_SVC_TOKEN")?;

    let client = Client::builder("http://127.0.0.1:11337").token(token).connect().await?;
    let (image, names) = ("nginx:1.27".into(), vec!["web".into()]);
    let request = pb::RunContainerRequest { image, names, ..Default::default() };
    match client.containers().run_container(request).await {
        Ok(ran) => println!("{:?}", ran.into_inner().ports),
        Err(status) => println!("{:?} {:?}", status.reason(), status.violations()),
    }
    Ok(())
}
