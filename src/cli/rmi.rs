//! `rmi`: remove images by name or id, or all that nobody uses.

use crate::rpc::pb;

use super::{Failure, Output, Session, images::size, output::warn, parse, target};

/// Which images to remove.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or ids
    #[arg(required_unless_present = "unused", value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove those that no container has and that have no name
    #[arg(long, conflicts_with = "images")]
    unused: bool,
    /// With --unused: those with a name too
    #[arg(short, long, requires = "unused")]
    all: bool,
    /// With --unused: only those that got their name, or were made, so long ago
    #[arg(long, value_name = "TIME", requires = "unused", value_parser = parse::duration)]
    older_than: Option<prost_types::Duration>,
    /// With --unused: only as many, oldest first, as bring all images below this, as 10GiB
    #[arg(long, value_name = "SIZE", requires = "unused", value_parser = parse::bytes)]
    keep: Option<i64>,
    /// With --unused: only say what would go
    #[arg(long, requires = "unused")]
    dry_run: bool,
}

pub(super) async fn rmi(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let mut client = session.images();
    if !args.unused {
        return target::each(&args.images, out, async |target, out| {
            let (name, id) = target.name_and_id();
            let answer = client.remove_image(pb::RemoveImageRequest { name, id }).await?;
            let answer = answer.into_inner();
            if out.json {
                return out.message("RemoveImageResponse", &answer);
            }
            answer.names.iter().chain(&answer.ids).try_for_each(|gone| out.line(gone))
        })
        .await;
    }
    let request = pb::PruneImagesRequest {
        all: args.all,
        older_than: args.older_than,
        keep_bytes: args.keep,
        dry_run: args.dry_run,
    };
    let answer = client.prune_images(request).await?.into_inner();
    if out.json {
        return out.message("PruneImagesResponse", &answer);
    }
    for image in &answer.images {
        let names = if image.names.is_empty() { &image.id } else { &image.names.join(",") };
        out.line(names)?;
    }
    let verb = if args.dry_run { "would go" } else { "went" };
    let (count, bytes) = (answer.images.len(), size(answer.reclaimed_bytes));
    warn(format_args!("{count} images {verb}, {bytes} of their own"));
    Ok(())
}
