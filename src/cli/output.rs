//! The only file that writes to the terminal: lines, tables, and proto3 JSON.

use std::{
    fmt::Display,
    io::{self, Write},
};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::{gateway, rpc::pb};

use super::Failure;

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// As JSON in place of text.
    pub(super) json: bool,
}

/// Where bytes are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// What was asked for.
    Stdout,
    /// What is said beside it.
    Stderr,
}

/// Writes messages of one type as proto3 JSON, with the fields in the order of the
/// proto.
pub(super) struct Json {
    name: String,
    descriptor: MessageDescriptor,
    printer: gateway::Printer,
}

impl Output {
    /// Prints one line.
    pub(super) fn line(self, text: impl Display) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        // Whoever reads a watch through a pipe wants the line now.
        Ok(stdout.flush()?)
    }

    /// Prints a message on one line, just as REST writes it. `name` is the
    /// message's name in the proto package.
    pub(super) fn message(self, name: &str, message: &impl Message) -> Result<(), Failure> {
        self.line(Json::of(name)?.compact(message)?)
    }

    /// Prints a message over several lines, for people.
    pub(super) fn pretty(self, name: &str, message: &impl Message) -> Result<(), Failure> {
        self.line(Json::of(name)?.pretty(message)?)
    }

    /// Writes bytes as they are.
    pub(super) fn bytes(self, target: Target, bytes: &[u8]) -> Result<(), Failure> {
        match target {
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()?;
            }
            Target::Stderr => io::stderr().lock().write_all(bytes)?,
        }
        Ok(())
    }

    /// Prints rows under a heading, in aligned columns.
    pub(super) fn table<const N: usize>(
        self,
        heading: [&str; N],
        rows: &[[String; N]],
    ) -> Result<(), Failure> {
        let text = table(heading, rows);
        self.line(text.trim_end())
    }
}

/// Tells something on stderr; when that is gone too, there is nobody to tell.
pub(super) fn warn(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

impl Json {
    /// For the message with this name in the proto package.
    pub(super) fn of(name: &str) -> Result<Self, Failure> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).map_err(|why| defect(name, &why))?;
        let descriptor = pool
            .get_message_by_name(&format!("containersvc.v1.{name}"))
            .ok_or_else(|| defect(name, &"no such message"))?;
        let printer = gateway::Printer::of(&pool, descriptor.full_name());
        let printer = printer.ok_or_else(|| defect(name, &"no such message"))?;
        Ok(Self { name: name.to_owned(), descriptor, printer })
    }

    /// A message on one line, just as REST writes it.
    pub(super) fn compact(&self, message: &impl Message) -> Result<String, Failure> {
        let text = self.printer.text(&message.encode_to_vec());
        text.ok_or_else(|| defect(&self.name, &"it is broken"))
    }

    /// A message over several lines.
    fn pretty(&self, message: &impl Message) -> Result<String, Failure> {
        let defect = |why: &dyn Display| defect(&self.name, why);
        let mut dynamic = DynamicMessage::new(self.descriptor.clone());
        dynamic.transcode_from(message).map_err(|why| defect(&why))?;
        let options = SerializeOptions::new().skip_default_fields(false);
        let mut json = Vec::new();
        let mut serializer = serde_json::Serializer::pretty(&mut json);
        dynamic.serialize_with_options(&mut serializer, &options).map_err(|why| defect(&why))?;
        String::from_utf8(json).map_err(|why| defect(&why))
    }
}

fn defect(name: &str, why: &dyn Display) -> Failure {
    Failure::Other(format!("cannot print {name} as JSON: {why}"))
}

fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let heading = heading.map(str::to_owned);
    // A label or a message of the engine must not steer the terminal.
    let lines: Vec<[String; N]> = std::iter::once(&heading)
        .chain(rows)
        .map(|row| row.each_ref().map(|cell| cell.replace(char::is_control, "?")))
        .collect();
    let width =
        |column: usize| lines.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &lines {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(name: &str, message: &impl Message) -> String {
        Json::of(name).unwrap().compact(message).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_control_characters_are_shown() {
        let rows = [["a".to_owned(), "x".to_owned()], ["long".to_owned(), "\u{1b}[0m".to_owned()]];
        assert_eq!(table(["ID", "NAME"], &rows), "ID     NAME\na      x\nlong   ?[0m\n");
    }

    #[test]
    fn json_has_proto3_names_and_keeps_defaults() {
        let answer = pb::IsContainerRunningResponse { is_running: false };
        let bare = json("IsContainerRunningResponse", &answer);
        assert_eq!(bare, r#"{"isRunning":false}"#);
        let container = pb::Container {
            resources: Some(pb::Resources { memory_mb: 64, ..Default::default() }),
            ..Default::default()
        };
        let json = json("Container", &container);
        assert!(json.starts_with(r#"{"id":"","nodeId":"","names":[],"#), "{json}");
        assert!(json.contains(r#""memoryMB":64"#) && !json.contains("exitCode"), "{json}");
    }
}
