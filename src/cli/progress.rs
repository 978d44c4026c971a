//! How far something is: bars for a person, lines for a script, nothing for JSON.

use std::{
    collections::{HashMap, HashSet},
    io::{self, IsTerminal},
};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::rpc::pb;

use super::{Output, output::warn};

/// How something of no known size is shown.
const WORDS: &str = "{prefix:12} {msg}";
/// How something that has a size is shown.
const SIZES: &str = "{prefix:12} [{bar:30}] {bytes}/{total_bytes} {msg}";

/// How progress is shown.
pub(super) enum View {
    /// Not at all.
    Silent,
    /// A line for each new step.
    Lines(HashSet<(String, String)>),
    /// Bars, once there is something to show.
    Bars(Option<Bars>),
}

/// A bar for each part, and one for all.
pub(super) struct Bars {
    area: MultiProgress,
    whole: ProgressBar,
    parts: HashMap<String, ProgressBar>,
}

impl View {
    pub(super) fn new(out: Output) -> Self {
        match (out.json, io::stderr().is_terminal()) {
            (true, _) => Self::Silent,
            (false, false) => Self::Lines(HashSet::new()),
            (false, true) => Self::Bars(None),
        }
    }

    /// A step of a pull.
    pub(super) fn pull(&mut self, step: &pb::PullImageResponse) {
        if let Some(layer) = &step.layer {
            self.line(&layer.id, &layer.status);
        }
        let Some(bars) = self.bars("total") else { return };
        if let Some(all) = &step.progress {
            let message = format!("{}/{} layers", all.layers_done, all.layers_total);
            update(&bars.whole, all.current_bytes, all.total_bytes, message);
        }
        if let Some(layer) = &step.layer {
            let message = layer.status.replace(char::is_control, "?");
            update(bars.part(&layer.id), layer.current_bytes, layer.total_bytes, message);
        }
    }

    /// A step of the download of an asset.
    pub(super) fn download(&mut self, step: &pb::AssetDownload) {
        let size = HumanBytes(bytes(step.bytes));
        if step.done {
            self.line(&step.env_var_key, &format!("{size} fetched"));
        }
        let Some(bars) = self.bars("run") else { return };
        let message = match (step.done, step.total_bytes) {
            (true, _) => "fetched".to_owned(),
            (false, 0) => format!("{size}, {}/s", HumanBytes(bytes(step.bytes_per_second))),
            (false, _) => format!("{}/s", HumanBytes(bytes(step.bytes_per_second))),
        };
        update(bars.part(&step.env_var_key), step.bytes, step.total_bytes, message);
    }

    /// What is being done, where it has no size.
    pub(super) fn stage(&mut self, words: &str) {
        if let Some(bars) = self.bars("run") {
            update(&bars.whole, 0, 0, words.to_owned());
        }
    }

    /// What is waited for, and where it stands.
    pub(super) fn wait(&mut self, what: &str, words: &str) {
        self.line(what, words);
        self.stage(&words.replace(char::is_control, "?"));
    }

    /// Takes the bars off the screen.
    pub(super) fn clear(&self) {
        if let Self::Bars(Some(bars)) = self {
            // One that is not finished would be drawn again when it is dropped,
            // over what stands there by then.
            bars.parts.values().chain([&bars.whole]).for_each(ProgressBar::finish_and_clear);
            // A terminal that is gone needs no clearing.
            let _ = bars.area.clear();
        }
    }

    /// A line for each new step of a part, not for each byte.
    fn line(&mut self, part: &str, step: &str) {
        if let Self::Lines(seen) = self
            && seen.insert((part.to_owned(), step.to_owned()))
        {
            warn(format!("{part}: {step}").replace(char::is_control, "?"));
        }
    }

    fn bars(&mut self, whole: &str) -> Option<&mut Bars> {
        let Self::Bars(bars) = self else { return None };
        Some(bars.get_or_insert_with(|| {
            let area = MultiProgress::new();
            let whole = area.add(bar(whole));
            Bars { area, whole, parts: HashMap::new() }
        }))
    }
}

impl Bars {
    fn part(&mut self, name: &str) -> &ProgressBar {
        self.parts.entry(name.to_owned()).or_insert_with(|| {
            self.area.insert_before(&self.whole, bar(&name.replace(char::is_control, "?")))
        })
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
