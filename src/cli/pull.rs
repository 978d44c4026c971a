//! `pull`: fetch an image, with a bar for each layer and one for all.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Read},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::rpc::pb;

use super::{Failure, Output, Session, output::warn};

/// How something of no known size is shown.
const WORDS: &str = "{prefix:12} {msg}";
/// How something that has a size is shown.
const SIZES: &str = "{prefix:12} [{bar:30}] {bytes}/{total_bytes} {msg}";

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
        let total = area.add(bar("total"));
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
            // One that is not finished would be drawn again when it is dropped,
            // over what stands there by then.
            bars.layers.values().chain([&bars.total]).for_each(ProgressBar::finish_and_clear);
            // A terminal that is gone needs no clearing.
            let _ = bars.area.clear();
        }
    }
}

impl Bars {
    fn show(&mut self, step: &pb::PullImageResponse) {
        if let Some(all) = &step.progress {
            let message = format!("{}/{} layers", all.layers_done, all.layers_total);
            update(&self.total, all.current_bytes, all.total_bytes, message);
        }
        let Some(layer) = &step.layer else { return };
        let bar = self.layers.entry(layer.id.clone()).or_insert_with(|| {
            self.area.insert_before(&self.total, bar(&layer.id.replace(char::is_control, "?")))
        });
        let message = layer.status.replace(char::is_control, "?");
        update(bar, layer.current_bytes, layer.total_bytes, message);
    }
}

/// A bar for which nothing is known yet but what it is for.
fn bar(prefix: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix(prefix.to_owned());
    bar.set_style(style(WORDS));
    bar
}

/// Tells how far something is; without a size there is no bar to draw.
fn update(bar: &ProgressBar, current: i64, total: i64, message: String) {
    if total > 0 {
        bar.set_style(style(SIZES));
        bar.set_length(bytes(total));
        bar.set_position(bytes(current));
    } else {
        bar.set_style(style(WORDS));
    }
    bar.set_message(message);
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn bytes(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}
