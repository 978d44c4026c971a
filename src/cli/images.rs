//! `images`: list images in a table.

use jiff::Timestamp;

use crate::rpc::pb;

use super::{Failure, Output, Session, ps::age, target::short};

/// Which images to list; all by default.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only images with this name; without a tag, whatever their tag
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
    /// Only those that no container has
    #[arg(long)]
    unused: bool,
    /// Print whole ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

pub(super) async fn images(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let request = pb::ListImagesRequest { name: args.name, unused: args.unused };
    let answer = session.images().list_images(request).await?.into_inner();
    if out.json {
        return out.message("ListImagesResponse", &answer);
    }
    if args.quiet {
        return answer.images.iter().try_for_each(|image| out.line(&image.id));
    }
    let now = Timestamp::now().as_second();
    let rows: Vec<_> = answer.images.iter().map(|image| row(image, now)).collect();
    out.table(["ID", "NAMES", "SIZE", "AGE", "USED BY"], &rows)
}

fn row(image: &pb::Image, now: i64) -> [String; 5] {
    let made = image.created_at.as_ref().map(|at| age(now - at.seconds));
    [
        short(image.id.trim_start_matches("sha256:")).to_owned(),
        if image.names.is_empty() { "<none>".to_owned() } else { image.names.join(",") },
        size(image.size),
        made.unwrap_or_default(),
        image.used_by.join(","),
    ]
}

/// Bytes for people.
pub(super) fn size(bytes: i64) -> String {
    indicatif::HumanBytes(u64::try_from(bytes).unwrap_or(0)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_names_size_age_and_users() {
        let image = pb::Image {
            id: "sha256:0123456789abcdef".into(),
            size: 3 << 20,
            created_at: Some(prost_types::Timestamp { seconds: 100, nanos: 0 }),
            used_by: vec!["web".into(), "db".into()],
            ..Default::default()
        };
        assert_eq!(row(&image, 220), ["0123456789ab", "<none>", "3.00 MiB", "2m", "web,db"]);
    }
}
