//! Figures, and the text in which Prometheus reads them (format 0.0.4).

use std::fmt::Write as _;

/// Figures of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: Vec<Sample>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Family {
    /// Figures that go up and down. `help` is one sentence.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "gauge", samples: Vec::new() }
    }

    /// Figures that only grow while the process lives; the name ends in `_total`.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "counter", samples: Vec::new() }
    }

    /// With the one figure that it has.
    #[must_use]
    pub fn value(self, value: f64) -> Self {
        self.labelled(&[], value)
    }

    /// With a figure more, told from the others by its labels.
    #[must_use]
    pub fn labelled(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|&(key, value)| (key, value.to_owned())).collect();
        self.samples.push(Sample { labels, value });
        self
    }
}

/// All figures as text. A name without a figure is left out.
pub fn text(families: &[Family]) -> String {
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let Family { name, help, kind, samples } = family;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {}", escaped(help, false));
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for sample in samples {
            out.push_str(name);
            let labels: Vec<String> = sample
                .labels
                .iter()
                .map(|(key, value)| format!("{key}=\"{}\"", escaped(value, true)))
                .collect();
            if !labels.is_empty() {
                let _ = write!(out, "{{{}}}", labels.join(","));
            }
            let _ = writeln!(out, " {}", sample.value);
        }
    }
    out
}

fn escaped(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quoted { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let families = [
            Family::gauge("up", "Whether \"it\" is.\nReally.").value(1.0),
            Family::counter("lines_total", "Lines.")
                .labelled(&[("name", "a\"b\\c\nd"), ("stream", "stdout")], 9_007_199_254_740_992.0)
                .labelled(&[("name", "e"), ("stream", "stderr")], 0.5),
            Family::gauge("unknown", "Not there today."),
        ];
        let expected = "# HELP up Whether \"it\" is.\\nReally.\n\
                        # TYPE up gauge\n\
                        up 1\n\
                        # HELP lines_total Lines.\n\
                        # TYPE lines_total counter\n\
                        lines_total{name=\"a\\\"b\\\\c\\nd\",stream=\"stdout\"} 9007199254740992\n\
                        lines_total{name=\"e\",stream=\"stderr\"} 0.5\n";
        assert_eq!(text(&families), expected);
    }
}
