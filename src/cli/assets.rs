//! `assets`: list and remove the files that were fetched for containers.

use crate::rpc::pb;

use super::{Failure, Output, Session, images::size, info::time};

/// What to do with assets.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

/// Which assets to list; all by default.
#[derive(Debug, clap::Args)]
struct List {
    /// Only the asset of this URL
    #[arg(long, default_value = "", hide_default_value = true)]
    url: String,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Remove an asset that no container has; the next run that names it fetches it
    Rm {
        /// Id, as listed, or the whole URL
        asset: String,
    },
}

pub(super) async fn assets(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    match args.command {
        None => list(args.list, &session, out).await,
        Some(Command::Rm { asset }) => {
            let request = match asset.contains(':') {
                true => pb::RemoveAssetRequest { url: asset.clone(), ..Default::default() },
                false => pb::RemoveAssetRequest { id: asset.clone(), ..Default::default() },
            };
            let answer = session.assets().remove_asset(request).await?;
            if out.json {
                return out.message("RemoveAssetResponse", answer.get_ref());
            }
            out.line(asset)
        }
    }
}

async fn list(args: List, session: &Session, out: Output) -> Result<(), Failure> {
    let mut all = pb::ListAssetsResponse::default();
    let mut request = pb::ListAssetsRequest { url: args.url, ..Default::default() };
    loop {
        let page = session.assets().list_assets(request.clone()).await?.into_inner();
        all.assets.extend(page.assets);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if out.json {
        return out.message("ListAssetsResponse", &all);
    }
    let rows: Vec<_> = all.assets.iter().map(row).collect();
    out.table(["ID", "SIZE", "LAST USED", "USED BY", "URL"], &rows)
}

fn row(asset: &pb::AssetInfo) -> [String; 5] {
    [
        asset.id.clone(),
        size(asset.bytes),
        asset.last_used_at.as_ref().and_then(time).unwrap_or_default(),
        asset.used_by.join(", "),
        asset.url.clone(),
    ]
}
