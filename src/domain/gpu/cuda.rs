//! Which image fits the driver of the node: a pure choice among published tags.
//!
//! A tag may name a CUDA version, as `cuda-12.8.0-latest` does, or hold a place for
//! one, `{cuda}`. The driver runs every CUDA up to the one that it tells, and by
//! NVIDIA's promise of minor versions also each newer one of a major version for which
//! it is new enough.

use std::{cmp::Ordering, fmt};

use super::Inventory;

/// Places for a version; the second is the older spelling.
const PLACES: [&str; 2] = ["{cuda}", "$cudaVersion"];
/// Least driver for each major version of CUDA.
const LEAST_DRIVER: [(u32, u32); 3] = [(13, 580), (12, 525), (11, 450)];

/// A version of CUDA, as in `12.8.0` or `12.8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: Vec<u32>,
    text: String,
}

/// A tag with a version in it, or a place for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    prefix: String,
    /// The version that stands there.
    pub version: Option<Version>,
    suffix: String,
}

/// What the driver of a node can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Major version of the driver.
    pub driver: u32,
    /// Newest CUDA that it tells.
    pub cuda: (u32, u32),
}

/// True when an image holds a place for a version, wherever.
pub fn has_place(image: &str) -> bool {
    PLACES.iter().any(|place| image.contains(place))
}

/// The image with a version in its place, or as it is.
pub fn filled(image: &str, version: &str) -> String {
    PLACES.iter().fold(image.to_owned(), |image, place| image.replace(place, version))
}

impl Host {
    /// What an inventory tells; `None` without a driver.
    pub fn of(node: &Inventory) -> Option<Self> {
        let driver = node.driver.split('.').next()?.parse().ok()?;
        // A driver that does not tell its CUDA is judged by its own version alone.
        Some(Self { driver, cuda: node.cuda.unwrap_or((0, 0)) })
    }

    /// True when it runs programs of this version.
    pub fn runs(&self, version: &Version) -> bool {
        let (major, minor) = (version.number(0), version.number(1));
        let least = LEAST_DRIVER.iter().find(|(of, _)| *of == major);
        (major, minor) <= self.cuda || least.is_some_and(|(_, least)| self.driver >= *least)
    }

    /// True when one of the alternatives of `NVIDIA_REQUIRE_CUDA` holds, as far as
    /// driver and CUDA decide it. Spaces separate alternatives, commas what must hold
    /// together.
    pub fn meets(&self, required: &str) -> bool {
        let mut alternatives = required.split_whitespace().peekable();
        alternatives.peek().is_none()
            || alternatives.any(|all| all.split(',').all(|one| self.holds(one)))
    }

    fn holds(&self, condition: &str) -> bool {
        let Some(at) = condition.find(['<', '>', '=', '!']) else { return true };
        let (name, rest) = condition.split_at(at);
        let digits = rest.find(|c: char| !matches!(c, '<' | '>' | '=' | '!'));
        let (sign, value) = rest.split_at(digits.unwrap_or(rest.len()));
        let have = match name {
            "cuda" => vec![self.cuda.0, self.cuda.1],
            "driver" => vec![self.driver],
            // Of brands and architectures the runtime itself is the judge.
            _ => return true,
        };
        let Some(wanted) = Version::parse(value) else { return true };
        // Only as many numbers as are known of both.
        let order = have.iter().zip(&wanted.numbers).map(|(a, b)| a.cmp(b));
        let order = order.fold(Ordering::Equal, Ordering::then);
        match sign {
            ">=" => order.is_ge(),
            ">" => order.is_gt(),
            "<=" => order.is_le(),
            "<" => order.is_lt(),
            "!=" => order.is_ne(),
            _ => order.is_eq(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "driver {} (CUDA {}.{})", self.driver, self.cuda.0, self.cuda.1)
    }
}

impl Version {
    /// Reads one to three numbers with dots between.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<u32>> = text
            .split('.')
            .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?)
            .collect();
        let numbers = numbers.filter(|numbers| (1..=3).contains(&numbers.len()))?;
        Some(Self { numbers, text: text.to_owned() })
    }

    fn number(&self, at: usize) -> u32 {
        self.numbers.get(at).copied().unwrap_or(0)
    }

    fn newness(&self) -> (u32, u32, u32, usize) {
        (self.number(0), self.number(1), self.number(2), self.numbers.len())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// Reads a tag; `None` when it has neither a version nor a place for one.
    pub fn read(tag: &str) -> Option<Self> {
        for place in PLACES {
            if let Some((prefix, suffix)) = tag.split_once(place) {
                let (prefix, suffix) = (prefix.to_owned(), suffix.to_owned());
                return Some(Self { prefix, version: None, suffix });
            }
        }
        let word = tag.to_ascii_lowercase().find("cuda")? + "cuda".len();
        let joint = tag[word..].find(|c| !matches!(c, '-' | '_'))?;
        let begin = word + joint;
        let more = &tag[begin..];
        let end = more.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(more.len());
        // Two numbers at least: "cuda-12" alone may be a build number as well.
        let text = more[..end].trim_end_matches('.');
        let version = Version::parse(text).filter(|version| version.numbers.len() > 1)?;
        let end = begin + text.len();
        Some(Self {
            prefix: tag[..begin].to_owned(),
            version: Some(version),
            suffix: tag[end..].to_owned(),
        })
    }

    /// The version of a tag of this pattern.
    pub fn version_of(&self, tag: &str) -> Option<Version> {
        let rest = tag.strip_prefix(self.prefix.as_str())?;
        Version::parse(rest.strip_suffix(self.suffix.as_str())?)
    }

    /// The tag with this version.
    pub fn with(&self, version: &Version) -> String {
        format!("{}{version}{}", self.prefix, self.suffix)
    }

    /// The newest of the published tags that the host can run. `Err` says what is
    /// published.
    pub fn choose(&self, published: &[String], host: Host) -> Result<Version, String> {
        let mut versions: Vec<Version> =
            published.iter().filter_map(|tag| self.version_of(tag)).collect();
        versions.sort_by_key(|version| std::cmp::Reverse(version.newness()));
        if let Some(version) = versions.iter().find(|version| host.runs(version)) {
            return Ok(version.clone());
        }
        let pattern = format!("{}{}{}", self.prefix, PLACES[0], self.suffix);
        Err(match versions.as_slice() {
            [] => format!("no tag {pattern} is published; check the pattern"),
            some => {
                let some: Vec<String> = some.iter().take(8).map(Version::to_string).collect();
                format!(
                    "the {host} of this node runs none of the published {pattern}: {}; install a \
                     newer driver",
                    some.join(", ")
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: Host = Host { driver: 470, cuda: (11, 4) };
    const MIDDLE: Host = Host { driver: 550, cuda: (12, 4) };
    const NEW: Host = Host { driver: 580, cuda: (13, 0) };

    fn version(text: &str) -> Version {
        Version::parse(text).expect("a version")
    }

    fn chosen(tag: &str, published: &[&str], host: Host) -> Result<String, String> {
        let published: Vec<String> = published.iter().map(|tag| (*tag).to_owned()).collect();
        let pattern = Pattern::read(tag).expect("a pattern");
        pattern.choose(&published, host).map(|version| pattern.with(&version))
    }

    #[test]
    fn a_driver_runs_older_versions_and_the_minor_ones_of_its_major() {
        for (host, runs, not) in [
            (OLD, vec!["10.2", "11.0", "11.8.0"], vec!["12.0", "13.0"]),
            (MIDDLE, vec!["9.0", "11.8", "12.4.1", "12.8.0"], vec!["13.0.0", "14.0"]),
            (NEW, vec!["12.8", "13.0", "13.2"], vec!["14.0"]),
            (Host { driver: 520, cuda: (11, 8) }, vec!["11.8"], vec!["12.0"]),
        ] {
            assert!(runs.iter().all(|text| host.runs(&version(text))), "{host}");
            assert!(!not.iter().any(|text| host.runs(&version(text))), "{host}");
        }
    }

    #[test]
    fn a_tag_tells_its_version_and_its_place() {
        for (tag, prefix, text, suffix) in [
            ("cuda-12.8.0-latest", "cuda-", Some("12.8.0"), "-latest"),
            ("v1-cuda12.4", "v1-cuda", Some("12.4"), ""),
            ("CUDA_11.8-devel", "CUDA_", Some("11.8"), "-devel"),
            ("cuda-{cuda}-latest", "cuda-", None, "-latest"),
            ("$cudaVersion", "", None, ""),
        ] {
            let read = Pattern::read(tag).expect("a pattern");
            assert_eq!((read.prefix.as_str(), read.suffix.as_str()), (prefix, suffix), "{tag}");
            assert_eq!(read.version.map(|it| it.to_string()).as_deref(), text, "{tag}");
        }
        for tag in ["latest", "1.27", "cuda", "cuda-latest", "cuda-12", "cuda-1.2.3.4", "barracuda"]
        {
            assert_eq!(Pattern::read(tag), None, "{tag}");
        }
        assert_eq!(filled("a/b:cuda-$cudaVersion-x", "12.4"), "a/b:cuda-12.4-x");
        assert!(has_place("a:{cuda}") && !has_place("a:cuda-12.4"));
    }

    #[test]
    fn the_newest_tag_of_the_pattern_that_runs_is_chosen() {
        let published = [
            "cuda-11.8.0-latest",
            "cuda-12.4.1-latest",
            "cuda-12.10.0-latest",
            "cuda-12.9.1-latest",
            "cuda-13.0.0-latest",
            "cuda-12.99.0-dev",
            "latest",
            "cuda-x-latest",
        ];
        for (host, tag) in [
            (OLD, "cuda-11.8.0-latest"),
            (MIDDLE, "cuda-12.10.0-latest"),
            (NEW, "cuda-13.0.0-latest"),
        ] {
            for asked in ["cuda-{cuda}-latest", "cuda-$cudaVersion-latest", "cuda-13.0.0-latest"] {
                assert_eq!(chosen(asked, &published, host).as_deref(), Ok(tag), "{host}");
            }
        }
        let none = chosen("cuda-{cuda}-latest", &["cuda-13.0.0-latest"], MIDDLE).unwrap_err();
        assert!(none.contains("driver 550 (CUDA 12.4)") && none.contains("13.0.0"), "{none}");
        let none = chosen("cuda-{cuda}-slim", &published, MIDDLE).unwrap_err();
        assert!(none.contains("no tag cuda-{cuda}-slim is published"), "{none}");
    }

    #[test]
    fn what_an_image_requires_is_read_as_nvidias_runtime_reads_it() {
        for (required, meets) in [
            ("", true),
            ("cuda>=12.4", true),
            ("cuda>=12.5", false),
            ("cuda>=12.8 brand=tesla,driver>=550,driver<551", true),
            ("cuda>=12.8 driver>=535,driver<536", false),
            ("cuda<13", true),
            ("arch=sm_80", true),
            ("driver>=580", false),
        ] {
            assert_eq!(MIDDLE.meets(required), meets, "{required}");
        }
    }

    #[test]
    fn a_host_is_read_off_the_inventory() {
        let node =
            |driver: &str, cuda| Inventory { driver: driver.into(), cuda, ..Inventory::default() };
        assert_eq!(Host::of(&node("550.54.15", Some((12, 4)))), Some(MIDDLE));
        assert_eq!(Host::of(&node("", None)), None);
        assert_eq!(Host::of(&node("525.1", None)), Some(Host { driver: 525, cuda: (0, 0) }));
    }

    proptest! {
        /// Any text may come as a tag or as a requirement.
        #[test]
        fn no_text_breaks_it(tag in ".{0,40}", other in "(cuda|driver)?[<>=!]{0,3}[0-9.]{0,12}[ ,].*") {
            if let Some(pattern) = Pattern::read(&tag)
                && let Some(version) = &pattern.version
            {
                prop_assert_eq!(pattern.with(version), tag.clone());
                prop_assert_eq!(pattern.version_of(&tag), Some(version.clone()));
            }
            MIDDLE.meets(&other);
        }

        /// What is chosen is published, runs, and nothing newer that is published does.
        #[test]
        fn the_choice_is_the_newest_that_runs(
            published in proptest::collection::vec((9_u32..15, 0_u32..12, 0_u32..3), 0..12),
            driver in 400_u32..600, cuda in (9_u32..15, 0_u32..10),
        ) {
            let host = Host { driver, cuda };
            let tags: Vec<String> =
                published.iter().map(|(a, b, c)| format!("cuda-{a}.{b}.{c}-x")).collect();
            let pattern = Pattern::read("cuda-{cuda}-x").expect("a pattern");
            let run = |it: &(u32, u32, u32)| host.runs(&version(&format!("{}.{}.{}", it.0, it.1, it.2)));
            let best = published.iter().filter(|it| run(it)).max();
            match pattern.choose(&tags, host) {
                Ok(chosen) => {
                    prop_assert!(tags.contains(&pattern.with(&chosen)));
                    prop_assert_eq!(best.map(|it| (it.0, it.1, it.2, 3)), Some(chosen.newness()));
                }
                Err(why) => prop_assert!(best.is_none() && !why.is_empty()),
            }
        }
    }
}
