//! The data of a volume as a tar archive, through a container that never starts.
//!
//! The engine reads and writes archives only of containers. The image of ours is
//! empty, so that nothing must be pulled for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bollard::{
    body_full, body_try_stream,
    models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions},
    query_parameters::{
        CreateContainerOptions, CreateImageOptions, DownloadFromContainerOptions,
        UploadToContainerOptions,
    },
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};

use super::{Engine, errors};
use crate::domain::{Error, Kind, Result};

/// The empty image.
const IMAGE: (&str, &str) = ("container-svc-empty", "1");
/// Where the volume is in the container.
const PLACE: &str = "/keep";
/// An archive of nothing.
const EMPTY_TAR: &[u8] = &[0; 1024];

impl Engine {
    /// Makes a container that has a volume and never starts; answers its id.
    pub async fn hold_volume(
        &self,
        name: &str,
        volume: &str,
        labels: HashMap<String, String>,
    ) -> Result<String> {
        match self.try_hold(name, volume, labels.clone()).await {
            Err(error) if error.kind() == Kind::NotFound => {
                self.make_empty_image().await?;
                self.try_hold(name, volume, labels).await
            }
            other => other,
        }
    }

    async fn try_hold(
        &self,
        name: &str,
        volume: &str,
        labels: HashMap<String, String>,
    ) -> Result<String> {
        let docker = self.docker().await?;
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        let mount = Mount {
            target: Some(PLACE.to_owned()),
            source: Some(volume.to_owned()),
            typ: Some(MountType::VOLUME),
            volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
            ..Default::default()
        };
        let body = ContainerCreateBody {
            image: Some(format!("{}:{}", IMAGE.0, IMAGE.1)),
            // The engine wants one, though nothing will run.
            cmd: Some(vec!["none".to_owned()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                mounts: Some(vec![mount]),
                network_mode: Some("none".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let question = docker.create_container(Some(options), body);
        Ok(self.within(self.work_limit(), question).await?.id)
    }

    async fn make_empty_image(&self) -> Result<()> {
        let docker = self.docker().await?;
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(IMAGE.0.to_owned()),
            tag: Some(IMAGE.1.to_owned()),
            ..Default::default()
        };
        let body = body_full(Bytes::from_static(EMPTY_TAR));
        let mut steps = Box::pin(docker.create_image(Some(options), Some(body), None));
        let made = async {
            while let Some(step) = steps.next().await {
                step?;
            }
            Ok(())
        };
        self.within(self.work_limit(), made).await
    }

    /// Reads the volume that a container holds; dropping the stream gives up. An engine
    /// that sends nothing for too long is given up.
    pub async fn read_volume(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + Unpin + use<>> {
        let docker = self.docker().await?;
        let (address, limit) = (self.address.clone(), self.work_limit());
        // With the dot, entries are named from within the directory.
        let options = DownloadFromContainerOptions { path: format!("{PLACE}/.") };
        let pieces = Box::pin(docker.download_from_container(id, Some(options)));
        Ok(Box::pin(stream::unfold(Some(pieces), move |pieces| {
            let address = address.clone();
            async move {
                let mut pieces = pieces?;
                match tokio::time::timeout(limit, pieces.next()).await {
                    Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
                    Ok(Some(Err(error))) => Some((Err(errors::convert(&address, error)), None)),
                    Ok(None) => None,
                    Err(_) => Some((Err(errors::timeout(&address, limit)), None)),
                }
            }
        })))
    }

    /// Unpacks an archive into the volume that a container holds. An error in the
    /// stream breaks it off. An engine that takes nothing for too long is given up.
    pub async fn write_volume(
        &self,
        id: &str,
        archive: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> Result<()> {
        let (docker, limit) = (self.docker().await?, self.work_limit());
        let options = UploadToContainerOptions { path: PLACE.to_owned(), ..Default::default() };
        let turn = Arc::new(Turn(Mutex::new(Some(Instant::now()))));
        let (asked, mut archive) = (turn.clone(), Box::pin(archive));
        let archive = stream::poll_fn(move |cx| {
            asked.set(None);
            let polled = archive.as_mut().poll_next(cx);
            if polled.is_ready() {
                asked.set(Some(Instant::now()));
            }
            polled
        });
        let upload = docker.upload_to_container(id, Some(options), body_try_stream(archive));
        let done = tokio::select! {
            done = upload => done,
            () = turn.overdue(limit) => return Err(errors::timeout(&self.address, limit)),
        };
        done.map_err(|error| {
            let error = self.error(error);
            match error.message().contains("no space left on device") {
                true => Error::new(Kind::ResourceExhausted, "DISK_FULL", error.message()),
                false => error,
            }
        })
    }
}

/// Since when it is the engine's turn to take something; `None` while it waits for us.
struct Turn(Mutex<Option<Instant>>);

impl Turn {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Resolves when the engine has let so much time pass.
    async fn overdue(&self, limit: Duration) {
        loop {
            let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let left = since.map_or(limit, |since| limit.saturating_sub(since.elapsed()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}
