//! `build`: build an image, its steps told as they go.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::rpc::pb::{self, build_image_stream_response::Event};

use super::{
    Failure, Output, Session,
    images::size,
    output::{Target, warn},
    parse,
};

mod source;

/// Output of a step that is kept to be shown when it fails.
const KEPT: usize = 256 << 10;
/// How often a running step shows how long it runs.
const TICK: Duration = Duration::from_millis(200);

/// What to build.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder here, which is uploaded; or a git repository or tarball that the service
    /// fetches, as https://host/app.git#main:sub or https://host/app.tar.gz
    #[arg(value_name = "PATH|URL")]
    path: String,
    /// PATH is a folder on the service's node, below one of its build_roots
    #[arg(long)]
    on_node: bool,
    /// User for the repository of a URL
    #[arg(long, value_name = "USER", default_value = "", hide_default_value = true)]
    source_user: String,
    /// File with the password or token for the repository of a URL
    #[arg(long, value_name = "FILE")]
    source_password_file: Option<PathBuf>,
    /// Name of the image, as app:1; repeatable
    #[arg(short, long = "tag", required = true, value_name = "NAME")]
    tags: Vec<String>,
    /// Dockerfile, from the folder [default: Dockerfile]
    #[arg(short, long, value_name = "FILE", default_value = "", hide_default_value = true)]
    file: String,
    /// Value of an ARG; without =VALUE it is passed on from here
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = parse::env_var)]
    build_arg: Vec<pb::EnvVar>,
    /// Stage to end with
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,
    /// Platform, as linux/arm64
    #[arg(long, default_value = "", hide_default_value = true)]
    platform: String,
    /// Take no step from the cache
    #[arg(long)]
    no_cache: bool,
    /// Ask for newer base images
    #[arg(long)]
    pull: bool,
    /// Label of the image
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<pb::Label>,
    /// Secret for steps that mount it, as id=key,src=FILE or id=key,env=VARIABLE
    #[arg(long = "secret", value_name = "SECRET", value_parser = parse::secret)]
    secrets: Vec<pb::BuildSecret>,
    /// Image whose layers may be taken; repeatable
    #[arg(long, value_name = "IMAGE")]
    cache_from: Vec<String>,
    /// What steps may do beyond plain ones; repeatable, and only for tokens with
    /// image:build-privileged
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<Allow>,
    /// What shall build
    #[arg(long, default_value = "auto")]
    builder: Kind,
    /// Print the id of the image only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

/// What builds.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// BuildKit where the engine has it, else the older builder
    Auto,
    /// The engine's older builder
    Classic,
    /// BuildKit
    Buildkit,
}

/// What steps may do.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Allow {
    /// The network of the node
    #[value(name = "network.host")]
    NetworkHost,
    /// No sandbox, where the engine's settings allow it
    #[value(name = "security.insecure")]
    SecurityInsecure,
}

pub(super) async fn build(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let quiet = args.quiet;
    let mut request = request(&args);
    match source::of_url(&args)? {
        Some(found) => request.source = Some(found),
        None if args.on_node => {
            // The service knows nothing of the folder that this was called in.
            let path = std::path::absolute(&args.path)?;
            request.context_path = path.to_string_lossy().into_owned();
        }
        None => source::upload(&session, &args, &mut request).await?,
    }
    let mut stream = session.builds().build_image_stream(request).await?.into_inner();
    let mut view = View::new(out, quiet);
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(status) => {
                view.failed()?;
                return Err(status.into());
            }
        };
        if out.json {
            out.message("BuildImageStreamResponse", &message)?;
        }
        match message.event {
            Some(Event::Finished(image)) => {
                view.finished(&image);
                return if out.json { Ok(()) } else { out.line(image.image_id) };
            }
            Some(event) => view.show(event)?,
            None => {}
        }
    }
    view.failed()?;
    Err(Failure::Other("the service ended the build without saying that it is done".to_owned()))
}

fn request(args: &Args) -> pb::BuildImageStreamRequest {
    let mut tags = args.tags.iter().cloned();
    let builder = match args.builder {
        Kind::Auto => pb::BuilderKind::Unspecified,
        Kind::Classic => pb::BuilderKind::Classic,
        Kind::Buildkit => pb::BuilderKind::Buildkit,
    };
    pb::BuildImageStreamRequest {
        name: tags.next().unwrap_or_default(),
        tags: tags.collect(),
        dockerfile_path: args.file.clone(),
        build_args: args.build_arg.clone(),
        target: args.target.clone(),
        platform: args.platform.clone(),
        no_cache: args.no_cache,
        pull: args.pull,
        labels: args.labels.clone(),
        secrets: args.secrets.clone(),
        cache_from: args.cache_from.clone(),
        builder: builder.into(),
        entitlements: args.allow.iter().map(|allow| entitlement(*allow).into()).collect(),
        ..Default::default()
    }
}

fn entitlement(allow: Allow) -> pb::BuildEntitlement {
    match allow {
        Allow::NetworkHost => pb::BuildEntitlement::NetworkHost,
        Allow::SecurityInsecure => pb::BuildEntitlement::SecurityInsecure,
    }
}

/// How a build is shown, all on stderr.
struct View {
    sort: Sort,
    /// The step that began last; others may run beside it.
    step: Option<Running>,
    /// What steps are called, by their vertices.
    labels: HashMap<String, String>,
    /// What they wrote.
    output: HashMap<String, Wrote>,
    /// The step that wrote last.
    wrote: String,
    /// The step that failed.
    failed: String,
}

/// The last that a step wrote.
#[derive(Default)]
struct Wrote {
    last: Vec<u8>,
    /// Others wrote since it began to.
    mixed: bool,
}

enum Sort {
    /// The events are printed, all of them.
    Json,
    /// Nothing but why it failed.
    Quiet,
    /// Lines, and the output as it comes.
    Plain,
    /// The step that runs on a line of its own, with the last that it wrote.
    Live(ProgressBar),
}

struct Running {
    vertex: String,
    label: String,
    began: Instant,
    cached: bool,
}

impl View {
    fn new(out: Output, quiet: bool) -> Self {
        let sort = if out.json {
            Sort::Json
        } else if quiet {
            Sort::Quiet
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(TICK);
            Sort::Live(bar)
        } else {
            Sort::Plain
        };
        let (labels, output) = (HashMap::new(), HashMap::new());
        let (wrote, failed) = (String::new(), String::new());
        Self { sort, step: None, labels, output, wrote, failed }
    }

    fn show(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Step(step) => {
                self.end_step();
                let name = step.name.replace(char::is_control, " ");
                let label = match step.number {
                    0 => name,
                    number => format!("[{number}/{}] {name}", step.total),
                };
                match &self.sort {
                    Sort::Json | Sort::Quiet => {}
                    Sort::Plain => warn(&label),
                    Sort::Live(bar) => {
                        bar.reset_elapsed();
                        bar.set_prefix(label.chars().take(60).collect::<String>());
                        bar.set_message("");
                    }
                }
                self.labels.insert(step.vertex.clone(), label.clone());
                let (vertex, began) = (step.vertex, Instant::now());
                self.step = Some(Running { vertex, label, began, cached: false });
            }
            Event::Cached(cached) => match &mut self.step {
                Some(step) if step.vertex == cached.vertex => {
                    step.cached = true;
                    if matches!(self.sort, Sort::Plain) {
                        warn("  cached");
                    }
                }
                _ => {
                    if let Some(label) = self.labels.get(&cached.vertex) {
                        self.line(&format!("{label}  cached"));
                    }
                }
            },
            Event::Log(log) => self.log(log.vertex, &log.data)?,
            Event::Failed(failed) => self.failed = failed.step.unwrap_or_default().vertex,
            Event::Progress(progress) => {
                if let Sort::Live(bar) = &self.sort {
                    let sent = size(progress.current_bytes);
                    bar.set_message(format!("{} {} {sent}", progress.id, progress.status));
                }
            }
            Event::Warning(warning) => {
                self.line(&format!("warning: {}", warning.message));
            }
            Event::Started(_) | Event::Finished(_) => {}
        }
        Ok(())
    }

    fn log(&mut self, vertex: String, data: &[u8]) -> Result<(), Failure> {
        match &self.sort {
            Sort::Json => return Ok(()),
            Sort::Quiet => {}
            Sort::Plain => Output { json: false }.bytes(Target::Stderr, data)?,
            Sort::Live(bar) => {
                let text = String::from_utf8_lossy(data);
                if let Some(last) = text.lines().rev().find(|line| !line.trim().is_empty()) {
                    bar.set_message(last.replace(char::is_control, " "));
                }
            }
        }
        if self.wrote != vertex {
            for (_, other) in self.output.iter_mut().filter(|(other, _)| **other != vertex) {
                other.mixed = true;
            }
            self.wrote.clone_from(&vertex);
        }
        let output = &mut self.output.entry(vertex).or_default().last;
        output.extend_from_slice(data);
        let over = output.len().saturating_sub(KEPT);
        output.drain(..over);
        Ok(())
    }

    /// What stays of a step that is done.
    fn end_step(&mut self) {
        if let Some(step) = self.step.take()
            && matches!(self.sort, Sort::Live(_))
        {
            let how = match step.cached {
                true => "cached".to_owned(),
                false => format!("{:.1}s", step.began.elapsed().as_secs_f64()),
            };
            self.line(&format!("{}  {how}", step.label));
        }
    }

    fn finished(&mut self, image: &pb::BuildImageResponse) {
        self.end_step();
        let took = image.duration.as_ref().map_or(0.0, |took| {
            f64::from(i32::try_from(took.seconds).unwrap_or(i32::MAX)) + f64::from(took.nanos) / 1e9
        });
        self.line(&format!("built in {took:.1}s, {}", size(image.size)));
        self.clear();
    }

    /// The output of the step that failed comes last, before the error, unless it stands
    /// there already.
    fn failed(&mut self) -> Result<(), Failure> {
        let began_last = self.step.take().map(|step| step.label);
        let failed = self.labels.remove(&self.failed).or(began_last);
        let Wrote { mut last, mixed } = self.output.remove(&self.failed).unwrap_or_default();
        if matches!(self.sort, Sort::Plain) && !mixed {
            return Ok(());
        }
        if let Some(label) = failed {
            self.line(&format!("{label}  failed"));
        }
        self.clear();
        if last.last().is_some_and(|end| *end != b'\n') {
            last.push(b'\n');
        }
        Output { json: false }.bytes(Target::Stderr, &last)
    }

    fn line(&self, text: &str) {
        let text = text.replace(char::is_control, "?");
        match &self.sort {
            Sort::Json | Sort::Quiet => {}
            Sort::Plain => warn(text),
            Sort::Live(bar) => bar.println(text),
        }
    }

    fn clear(&self) {
        if let Sort::Live(bar) = &self.sort {
            bar.finish_and_clear();
        }
    }
}
