//! `keeps`: list, remove, export and import the data that containers keep.

use std::{
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use futures_util::stream;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _},
};

use crate::rpc::pb;

use super::{Failure, Output, Session, info::time, output::Target};

/// Bytes that are sent in one message.
const PIECE: usize = 256 << 10;

/// What to do with keeps.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

/// Which keeps to list; all by default.
#[derive(Debug, clap::Args)]
struct List {
    /// Only keeps of the container with this name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Tell their sizes too, for which the engine walks all volumes
    #[arg(short, long)]
    sizes: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Remove a keep and its data, for good
    Rm(Keep),
    /// Write a keep as a tar archive to stdout, or to a file
    Export(Export),
    /// Fill a keep from a tar archive, all of it or nothing
    Import(Import),
}

/// One keep.
#[derive(Debug, clap::Args)]
struct Keep {
    /// Name of the container that it belongs to
    name: String,
    /// Path in the container
    path: String,
}

#[derive(Debug, clap::Args)]
struct Export {
    #[command(flatten)]
    keep: Keep,
    /// File to write, in place of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also while a container with it runs, which may be writing
    #[arg(long)]
    live: bool,
}

#[derive(Debug, clap::Args)]
struct Import {
    #[command(flatten)]
    keep: Keep,
    /// File to read, in place of stdin
    file: Option<PathBuf>,
    /// Put it in the place of the data that are there
    #[arg(long)]
    replace: bool,
}

pub(super) async fn keeps(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    match args.command {
        None => list(args.list, &session, out).await,
        Some(Command::Rm(Keep { name, path })) => {
            let request = pb::RemoveKeepRequest { name, path: path.clone() };
            let answer = session.keeps().remove_keep(request).await?;
            if out.json {
                return out.message("RemoveKeepResponse", answer.get_ref());
            }
            out.line(path)
        }
        Some(Command::Export(args)) => export(args, &session, out).await,
        Some(Command::Import(args)) => import(args, &session, out).await,
    }
}

async fn list(args: List, session: &Session, out: Output) -> Result<(), Failure> {
    let request = pb::ListKeepsRequest { name: args.name, sizes: args.sizes };
    let answer = session.keeps().list_keeps(request).await?.into_inner();
    if out.json {
        return out.message("ListKeepsResponse", &answer);
    }
    let rows: Vec<_> = answer.keeps.iter().map(row).collect();
    out.table(["NAME", "PATH", "SIZE", "LAST USED", "USED BY"], &rows)
}

fn row(keep: &pb::KeepInfo) -> [String; 5] {
    let bytes = keep.bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let size = bytes.map(|bytes| indicatif::BinaryBytes(bytes).to_string());
    [
        keep.name.clone(),
        keep.path.clone(),
        size.unwrap_or_default(),
        keep.last_used_at.as_ref().and_then(time).unwrap_or_default(),
        keep.used_by.join(", "),
    ]
}

async fn export(args: Export, session: &Session, out: Output) -> Result<(), Failure> {
    let stdout = args.output.is_none();
    if stdout && io::stdout().is_terminal() {
        let why = "an archive is nothing for a terminal; write it to a file by > or --output";
        return Err(Failure::Usage(why.to_owned()));
    }
    let Keep { name, path } = args.keep;
    let request = pb::ExportKeepRequest { name, path, live: args.live };
    let mut pieces = session.keeps().export_keep(request).await?.into_inner();
    // The first piece comes before the file is made: a refusal leaves no file.
    let mut next = pieces.message().await?;
    let mut file = args.output.as_deref().map(Whole::create).transpose()?;
    let bar = progress(None);
    let written = async {
        while let Some(piece) = next {
            match &mut file {
                Some(whole) => io::Write::write_all(&mut whole.file, &piece.data)?,
                None => out.bytes(Target::Stdout, &piece.data)?,
            }
            bar.inc(piece.data.len() as u64);
            next = pieces.message().await?;
        }
        Ok(())
    };
    let written: Result<(), Failure> = written.await;
    bar.finish_and_clear();
    match (written, file) {
        (Ok(()), Some(whole)) => Ok(whole.keep()?),
        (Err(failure), Some(whole)) => {
            whole.drop_part();
            Err(failure)
        }
        (written, None) => written,
    }
}

/// A file that gets its name when it is whole: until then, nobody shall take a part for
/// the whole, and what has the name stays.
struct Whole {
    file: std::fs::File,
    /// Its name until then, and its own. A pipe or a device has none of these.
    names: Option<(PathBuf, PathBuf)>,
}

impl Whole {
    fn create(path: &Path) -> io::Result<Self> {
        let there = std::fs::metadata(path).ok();
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Ok(Self { file: std::fs::File::create(path)?, names: None });
        }
        // Of a link, what it leads to is replaced.
        let path = there.as_ref().map_or(Ok(path.to_owned()), |_| path.canonicalize())?;
        let mut part = path.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = std::fs::File::create(&part)?;
        if let Some(there) = there {
            file.set_permissions(there.permissions())?;
        }
        Ok(Self { file, names: Some((part, path)) })
    }

    fn keep(self) -> io::Result<()> {
        match self.names {
            None => Ok(()),
            Some((part, path)) => {
                self.file.sync_all()?;
                std::fs::rename(part, path)
            }
        }
    }

    fn drop_part(self) {
        if let Some((part, _)) = self.names {
            let _ = std::fs::remove_file(part);
        }
    }
}

async fn import(args: Import, session: &Session, out: Output) -> Result<(), Failure> {
    let (source, length): (Box<dyn AsyncRead + Send + Unpin>, _) = match &args.file {
        Some(path) => {
            let file = File::open(path).await?;
            let length = file.metadata().await?.len();
            (Box::new(file), Some(length))
        }
        None if io::stdin().is_terminal() => {
            let why = "there is no archive; name a file, or send one by <";
            return Err(Failure::Usage(why.to_owned()));
        }
        None => {
            let stdin = io::stdin().as_fd().try_clone_to_owned()?;
            (Box::new(File::from_std(stdin.into())), None)
        }
    };
    let Keep { name, path } = args.keep;
    let first = pb::ImportKeepRequest { name, path, replace: args.replace, ..Default::default() };
    let bar = progress(length);
    let (failed, failure) = tokio::sync::oneshot::channel();
    let begin = (Some(first), source, bar.clone(), Some(failed));
    let messages = stream::unfold(begin, |(first, mut source, bar, mut failed)| async move {
        if let Some(first) = first {
            return Some((first, (None, source, bar, failed)));
        }
        let mut data = vec![0; PIECE];
        match source.read(&mut data).await {
            Ok(0) => None,
            Ok(read) => {
                data.truncate(read);
                bar.inc(read as u64);
                let message = pb::ImportKeepRequest { data, ..Default::default() };
                Some((message, (None, source, bar, failed)))
            }
            Err(error) => {
                // What is sent then is cut short, which the service refuses.
                let _ = failed.take()?.send(error);
                None
            }
        }
    });
    let answer = session.keeps().import_keep(messages).await;
    bar.finish_and_clear();
    if let Ok(error) = failure.await {
        return Err(error.into());
    }
    let answer = answer?.into_inner();
    if out.json {
        return out.message("ImportKeepResponse", &answer);
    }
    out.line(format_args!("{} bytes", answer.bytes))
}

/// A bar for a known length, else a count; nothing where nobody looks.
fn progress(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        _ if !io::stderr().is_terminal() => return ProgressBar::hidden(),
        Some(length) => {
            let template = "[{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            (ProgressBar::new(length), template)
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}
