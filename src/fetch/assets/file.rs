//! Assets that are files of this machine, below folders that the configuration allows.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use reqwest::Url;
use rustix::fs::OFlags;
use tokio::io::AsyncReadExt as _;

use super::{
    AssetSettings, Failure, Tell, Validator, failed,
    part::{Part, blocking},
    pour::pour,
    prepare, refused,
};
use crate::domain::{
    Error, Result,
    asset::{Policy, file_path},
};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Copies a file; it is read anew from its beginning each time.
pub(super) async fn fetch(
    settings: &AssetSettings,
    url: &Url,
    have: Option<&Validator>,
    part: &mut Option<Part>,
    tell: Tell<'_>,
) -> Result<Option<Part>, Failure> {
    let path = file_path(url).map_err(|why| Failure::Never(refused(url.as_str(), &why)))?;
    let (policy, source) = (settings.policy.clone(), url.clone());
    let opened = blocking(move || open(&policy, &source, &path));
    let (file, about) = opened.await.map_err(Failure::Never)?;
    let validator = validator(&about);
    if have == Some(&validator) {
        return Ok(None);
    }
    let (same, length) = (validator.clone(), about.len());
    prepare(part, move |part| part.restart(&same, length)).await?;
    let unread = |error: io::Error| Failure::Again(unread(url, error));
    let after = file.try_clone().map_err(unread)?;
    let chunks = Box::pin(chunks(file, url.clone()));
    let limits = settings.limits;
    let whole = pour(chunks, part, limits.stall, limits.min_rate, tell).await?;
    // Half of it may be of one content and half of the next.
    if self::validator(&after.metadata().map_err(unread)?) != validator {
        *part = Some(whole);
        let what = "changed while it was copied; try again later";
        return Err(Failure::Again(failed("ASSET_CHANGED", url.as_str(), what)));
    }
    Ok(Some(whole))
}

fn validator(about: &fs::Metadata) -> Validator {
    let etag =
        format!("\"{}-{}.{}-{}\"", about.ino(), about.mtime(), about.mtime_nsec(), about.len());
    Validator { etag, last_modified: String::new() }
}

fn unread(url: &Url, error: io::Error) -> Error {
    let what = format!("cannot be read: {}; see whether it is there", error.kind());
    failed("ASSET_NOT_FOUND", url.as_str(), &what).because(error)
}

/// Opens the file, and only then looks where it really is: nothing can be put in its
/// place in between.
fn open(policy: &Policy, url: &Url, path: &Path) -> Result<(File, fs::Metadata)> {
    let unread = |error: io::Error| unread(url, error);
    let url = url.as_str();
    // A pipe would keep us waiting.
    #[expect(clippy::cast_possible_wrap, reason = "a flag, the same bits")]
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(unread)?;
    let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(unread)?;
    let roots = policy.file_roots.iter().filter_map(|root| fs::canonicalize(root).ok());
    if !roots.into_iter().any(|root| real.starts_with(root)) {
        let why = format!(
            "\"{url}\" leads out of asset_file_roots by a link; use a file that is really there"
        );
        return Err(refused(url, &why));
    }
    let about = file.metadata().map_err(unread)?;
    if !about.is_file() {
        let why = format!("\"{url}\" is no regular file; name one");
        return Err(refused(url, &why));
    }
    Ok((file, about))
}

fn chunks(file: File, url: Url) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
    stream::try_unfold((tokio::fs::File::from_std(file), url), |(mut file, url)| async move {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        match file.read_buf(&mut buffer).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((buffer.freeze(), (file, url)))),
            Err(error) => {
                let what = format!("cannot be read: {error}");
                let error = failed("ASSET_NOT_READ", url.as_str(), &what).because(error);
                Err(Failure::Again(error))
            }
        }
    })
}
