//! `pull`: fetch an image, with a bar for each layer and one for all.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Read},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::rpc::pb;

use super::{Failure, Output, Session, output::warn};

/// What to fetch.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Image, as nginx:1.27
    image: String,
    /// User name at the registry [default: the node's Docker config file]
    #[arg(short, long, requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from stdin
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

pub(super) async fn pull(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let credential = args.username.map(credential).transpose()?;
    let request = pb::PullImageRequest { name: args.image, credential };
    let mut stream = session.images().pull_image(request).await?.into_inner();
    let mut view = View::new(out);
    while let Some(step) = stream.message().await? {
        if out.json {
            out.message("PullImageResponse", &step)?;
        } else if step.done {
            view.clear();
            return out.line(if step.digest.is_empty() { step.image_id } else { step.digest });
        }
        view.show(&step);
        if step.done {
            return Ok(());
        }
    }
    view.clear();
    Err(Failure::Other("the service ended the pull without saying that it is done".to_owned()))
}

fn credential(username: String) -> Result<pb::RegistryCredential, Failure> {
    // A password is short; more than this is a mistake.
    let mut password = String::new();
    io::stdin().lock().take(64 << 10).read_to_string(&mut password)?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    Ok(pb::RegistryCredential { username, password })
}

/// How progress is shown.
enum View {
    Silent,
    Lines(HashMap<String, String>),
    Bars(Bars),
}

struct Bars {
    area: MultiProgress,
    total: ProgressBar,
    layers: HashMap<String, ProgressBar>,
}

impl View {
    fn new(out: Output) -> Self {
        if out.json {
            return Self::Silent;
        }
        if !io::stderr().is_terminal() {
            return Self::Lines(HashMap::new());
        }
        let area = MultiProgress::new();
        let total = area.add(ProgressBar::new(0));
        total.set_style(style("{prefix:12} [{bar:30}] {bytes}/{total_bytes} {msg}"));
        total.set_prefix("total");
        Self::Bars(Bars { area, total, layers: HashMap::new() })
    }

    fn show(&mut self, step: &pb::PullImageResponse) {
        match self {
            Self::Silent => {}
            Self::Lines(seen) => {
                let Some(layer) = &step.layer else { return };
                // A line for each new step of a layer, not for each byte.
                let before = seen.insert(layer.id.clone(), layer.status.clone());
                if before.as_ref() != Some(&layer.status) {
                    let line = format!("{}: {}", layer.id, layer.status);
                    warn(line.replace(char::is_control, "?"));
                }
            }
            Self::Bars(bars) => bars.show(step),
        }
    }

    /// Takes the bars off the screen.
    fn clear(&self) {
        if let Self::Bars(bars) = self {
            // A terminal that is gone needs no clearing.
            let _ = bars.area.clear();
        }
    }
}

impl Bars {
    fn show(&mut self, step: &pb::PullImageResponse) {
        if let Some(all) = &step.progress {
            self.total.set_length(bytes(all.total_bytes));
            self.total.set_position(bytes(all.current_bytes));
            self.total.set_message(format!("{}/{} layers", all.layers_done, all.layers_total));
        }
        let Some(layer) = &step.layer else { return };
        let bar = self.layers.entry(layer.id.clone()).or_insert_with(|| {
            let bar = self.area.insert_before(&self.total, ProgressBar::new(0));
            bar.set_prefix(layer.id.replace(char::is_control, "?"));
            bar
        });
        bar.set_message(layer.status.replace(char::is_control, "?"));
        if layer.total_bytes > 0 {
            bar.set_style(style("{prefix:12} [{bar:30}] {bytes}/{total_bytes} {msg}"));
            bar.set_length(bytes(layer.total_bytes));
            bar.set_position(bytes(layer.current_bytes));
        } else {
            bar.set_style(style("{prefix:12} {msg}"));
            bar.tick();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn bytes(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}
