//! The release binary as a process of its own, of which the kernel keeps the books.

use std::{
    path::{Path, PathBuf},
    process::{Child as Process, Command, Stdio},
    time::{Duration, Instant},
};

use container_svc::rpc::pb::{
    self, build_service_client::BuildServiceClient,
    container_service_client::ContainerServiceClient, log_service_client::LogServiceClient,
};
use tonic::{service::interceptor::InterceptedService, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    Failure,
    service::{Bearer, Client, eventually, free_address},
};

/// A client of the logs.
pub(crate) type Logs = LogServiceClient<InterceptedService<Channel, Bearer>>;

/// A client of the builds.
pub(crate) type Builds = BuildServiceClient<InterceptedService<Channel, Bearer>>;

/// A running service, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    /// The logs, with the admin token.
    pub(crate) logs: Logs,
    /// The containers, with the admin token.
    pub(crate) containers: Client,
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// The builds, which may read the data directory.
    pub(crate) builds: Builds,
    /// When it was started.
    pub(crate) begin: Instant,
    /// How long it took to say that it serves.
    pub(crate) ready: Duration,
    process: Guard,
}

impl Child {
    /// Starts it with this data directory and waits until it says that it serves.
    pub(crate) async fn start(data: &Path) -> Result<Self, Failure> {
        Self::start_with(data, &[]).await
    }

    /// The same with further settings.
    pub(crate) async fn start_with(
        data: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let address = free_address()?;
        let begin = Instant::now();
        let process = Command::new(env!("CARGO_BIN_EXE_container-svc"))
            .arg("serve")
            .env("CONTAINER_SVC_DATA_DIR", data)
            .env("CONTAINER_SVC_BUILD_ROOTS", data)
            .env("CONTAINER_SVC_LISTEN", address.to_string())
            .env("CONTAINER_SVC_NODE_ID", "bench")
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Guard)?;
        let channel = eventually("the service serves", || async {
            let url = format!("http://{address}");
            let channel = Channel::from_shared(url).ok()?.connect().await.ok()?;
            let mut health = HealthClient::new(channel.clone());
            let status = health.check(HealthCheckRequest::default()).await.ok()?.into_inner();
            (status.status() == ServingStatus::Serving).then_some(channel)
        })
        .await?;
        let ready = begin.elapsed();
        let bearer = Bearer::read(&data.join("admin.token"))?;
        let builds = BuildServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let containers = ContainerServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let logs = LogServiceClient::with_interceptor(channel, bearer);
        Ok(Self { logs, builds, containers, data: data.to_owned(), begin, ready, process })
    }

    /// Waits until a container's last line says this.
    pub(crate) async fn has_last_line(&self, id: &str, text: &str) -> Result<(), Failure> {
        eventually("the last line can be read", || async {
            let request = pb::ListLogsRequest {
                container_id: id.to_owned(),
                limit: 1,
                order: pb::LogOrder::NewestFirst.into(),
                ..Default::default()
            };
            let answer = self.logs.clone().list_logs(request).await.ok()?.into_inner();
            answer.logs.first().filter(|line| line.content.contains(text)).map(|_| ())
        })
        .await
    }

    /// Processor time that it has taken, all its threads together.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        cpu(self.pid()?)
    }

    /// Bytes of memory that it occupies.
    pub(crate) fn memory(&self) -> Result<u64, Failure> {
        let status = procfs::process::Process::new(self.pid()?)?.status()?;
        Ok(status.vmrss.ok_or("no memory is told")? * 1024)
    }

    /// Bytes of it that are its own: pages of its program and of other files, which the
    /// kernel can drop at any time and read again, are left out.
    pub(crate) fn own_memory(&self) -> Result<u64, Failure> {
        let status = procfs::process::Process::new(self.pid()?)?.status()?;
        Ok(status.rssanon.ok_or("no memory is told")? * 1024)
    }

    /// Most bytes of memory that it ever occupied.
    pub(crate) fn most_memory(&self) -> Result<u64, Failure> {
        let status = procfs::process::Process::new(self.pid()?)?.status()?;
        Ok(status.vmhwm.ok_or("no memory is told")? * 1024)
    }

    fn pid(&self) -> Result<i32, Failure> {
        Ok(i32::try_from(self.process.0.id())?)
    }
}

/// A process that does not outlive this.
#[derive(Debug)]
struct Guard(Process);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time that the programs have taken that this one has waited for.
pub(crate) fn cpu_of_programs() -> Result<Duration, Failure> {
    let stat = procfs::process::Process::myself()?.stat()?;
    let ticks = u32::try_from(stat.cutime + stat.cstime)?;
    Ok(Duration::from_secs(1) * ticks / u32::try_from(procfs::ticks_per_second())?)
}

/// Processor time that a process has taken.
pub(crate) fn cpu(pid: i32) -> Result<Duration, Failure> {
    let stat = procfs::process::Process::new(pid)?.stat()?;
    let ticks = u32::try_from(stat.utime + stat.stime)?;
    Ok(Duration::from_secs(1) * ticks / u32::try_from(procfs::ticks_per_second())?)
}
