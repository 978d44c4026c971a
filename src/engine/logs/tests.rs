//! The reader of files finds every line once, whatever is done to the files.

use std::{
    cell::RefCell,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    rc::Rc,
};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    LogFiles, Progress,
    rotation::{LISTED, WAITED},
};
use crate::domain::logs::{Batch, Checkpoint, EntryKind, Gap, GapReason};

/// A log that is written as the engine writes it.
struct Log {
    dir: TempDir,
    file: File,
    next: u32,
}

impl Log {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = File::create(dir.path().join("c-json.log")).expect("a file");
        Self { dir, file, next: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("c-json.log")
    }

    fn aged(&self, age: u32) -> PathBuf {
        self.dir.path().join(format!("c-json.log.{age}"))
    }

    fn write(&mut self, lines: u32) {
        for _ in 0..lines {
            let (seconds, nanos) = (self.next / 1000, self.next % 1000);
            let line = format!(
                "{{\"log\":\"{}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:{:02}:{:02}.{nanos:09}Z\"}}\n",
                self.next,
                seconds / 60,
                seconds % 60,
            );
            self.file.write_all(line.as_bytes()).expect("written");
            self.next += 1;
        }
    }

    fn rotate(&mut self, keep: u32, compress: bool) {
        // The engine rotates a full file, never an empty one.
        if self.file.metadata().expect("a size").len() == 0 {
            return;
        }
        if keep == 1 {
            self.file =
                OpenOptions::new().write(true).truncate(true).open(self.path()).expect("cut");
            return;
        }
        for age in (1..keep - 1).rev() {
            for ending in ["", ".gz"] {
                let from = format!("{}{ending}", self.aged(age).display());
                let _ = fs::rename(from, format!("{}{ending}", self.aged(age + 1).display()));
            }
        }
        fs::rename(self.path(), self.aged(1)).expect("renamed");
        self.file = File::create(self.path()).expect("a file");
        if compress {
            let packed = File::create(format!("{}.gz", self.aged(1).display())).expect("a file");
            let mut encoder = GzEncoder::new(packed, Compression::fast());
            encoder.write_all(&fs::read(self.aged(1)).expect("read")).expect("packed");
            encoder.finish().expect("packed");
            fs::remove_file(self.aged(1)).expect("removed");
        }
    }

    fn copy_and_cut(&mut self) {
        fs::copy(self.path(), self.aged(1)).expect("copied");
        self.file =
            OpenOptions::new().append(true).open(self.path()).expect("opened for appending");
        self.file.set_len(0).expect("cut");
    }
}

fn read_all(reader: &mut LogFiles, out: &mut Batch) {
    while reader.read(usize::MAX, out).expect("read") != Progress::CaughtUp {}
}

fn numbers(batch: &Batch) -> Vec<Option<u32>> {
    batch
        .entries()
        .map(|entry| match entry.kind {
            EntryKind::Gap => None,
            EntryKind::Line(_) => std::str::from_utf8(entry.content).expect("text").parse().ok(),
        })
        .collect()
}

fn restart(reader: &LogFiles, log: &Log) -> LogFiles {
    let json = serde_json::to_string(&reader.checkpoint().expect("a place")).expect("json");
    let checkpoint: Checkpoint = serde_json::from_str(&json).expect("json");
    LogFiles::new(&log.path(), Some(checkpoint))
}

#[test]
fn a_log_that_is_cut_is_followed_and_the_cut_is_told() {
    let (mut log, mut out) = (Log::new(), Batch::default());
    let mut reader = LogFiles::new(&log.path(), None);
    log.write(10);
    read_all(&mut reader, &mut out);
    log.rotate(1, false);
    log.write(20);
    read_all(&mut reader, &mut out);
    let got = numbers(&out);
    assert_eq!(got.len(), 31);
    assert_eq!(got[10], None, "a gap");
    assert_eq!(got[11], Some(10));
    let gap = out.entries().nth(10).and_then(|entry| Gap::from_content(entry.content));
    assert_eq!(gap.map(|gap| (gap.reason, gap.count)), Some((GapReason::Truncated, None)));
}

#[test]
fn a_single_file_that_may_have_been_cut_before_anything_was_read_has_a_gap() {
    let (mut log, mut out) = (Log::new(), Batch::default());
    let mut reader = LogFiles::new(&log.path(), None).keeping(Some(1));
    read_all(&mut reader, &mut out);
    log.write(10);
    log.rotate(1, false);
    log.write(2);
    read_all(&mut reader, &mut out);
    log.write(1);
    read_all(&mut reader, &mut out);
    assert_eq!(numbers(&out), [None, Some(10), Some(11), Some(12)]);
}

/// One file is missing then, and what was in it.
#[test]
fn a_first_look_in_the_middle_of_a_rotation_has_a_gap() {
    for renamed in [false, true] {
        let (mut log, mut out) = (Log::new(), Batch::default());
        for _ in 0..3 {
            log.write(5);
            log.rotate(2, false);
        }
        log.write(5);
        let mut reader = LogFiles::new(&log.path(), None).keeping(Some(2));
        fs::remove_file(log.aged(1)).expect("removed");
        if renamed {
            fs::rename(log.path(), log.aged(1)).expect("renamed");
        }
        let (path, aged) = (log.path(), log.aged(1));
        WAITED.set(Some(Box::new(move || {
            if !renamed {
                fs::rename(&path, aged).expect("renamed");
            }
            drop(File::create(path).expect("a file"));
        })));
        read_all(&mut reader, &mut out);
        let expected: Vec<_> = [None].into_iter().chain((15..20).map(Some)).collect();
        assert_eq!(numbers(&out), expected, "renamed: {renamed}");
    }
}

#[test]
fn a_copy_that_was_made_before_the_cut_is_read_to_its_end() {
    let (mut log, mut out) = (Log::new(), Batch::default());
    let mut reader = LogFiles::new(&log.path(), None);
    log.write(10);
    read_all(&mut reader, &mut out);
    log.write(5);
    log.copy_and_cut();
    log.write(3);
    read_all(&mut reader, &mut out);
    // What was written between the copy and the cut is in neither file.
    let expected: Vec<_> = (0..15).map(Some).chain([None]).chain((15..18).map(Some)).collect();
    assert_eq!(numbers(&out), expected);
}

#[test]
fn what_was_rotated_away_unread_is_a_gap() {
    let (mut log, mut out) = (Log::new(), Batch::default());
    let mut reader = LogFiles::new(&log.path(), None);
    log.write(5);
    read_all(&mut reader, &mut out);
    let mut reader = restart(&reader, &log);
    for _ in 0..3 {
        log.rotate(2, false);
        log.write(5);
    }
    read_all(&mut reader, &mut out);
    let expected: Vec<_> = (0..5).map(Some).chain([None]).chain((10..20).map(Some)).collect();
    assert_eq!(numbers(&out), expected);
}

#[test]
fn a_new_file_with_the_inode_of_a_removed_one_is_not_taken_for_it() {
    // Most file systems give a free inode away at once, but others may come first.
    for _ in 0..20 {
        let (log, mut out) = (Rc::new(RefCell::new(Log::new())), Batch::default());
        let mut reader = LogFiles::new(&log.borrow().path(), None).keeping(Some(2));
        log.borrow_mut().write(3);
        read_all(&mut reader, &mut out);
        log.borrow_mut().rotate(2, false);
        log.borrow_mut().write(3);
        let same = log.clone();
        // Two files go and come between the listing and the opening of the next one.
        LISTED.set(Some(Box::new(move || {
            for _ in 0..2 {
                same.borrow_mut().rotate(2, false);
                same.borrow_mut().write(3);
            }
        })));
        read_all(&mut reader, &mut out);
        let expected: Vec<_> = (0..3).map(Some).chain([None]).chain((6..12).map(Some)).collect();
        assert_eq!(numbers(&out), expected);
    }
}

#[test]
fn a_removed_log_is_read_to_its_end_and_is_complete() {
    let (mut log, mut out) = (Log::new(), Batch::default());
    let mut reader = LogFiles::new(&log.path(), None);
    log.write(5);
    reader.read(1, &mut out).expect("read");
    log.write(5);
    fs::remove_dir_all(log.dir.path()).expect("removed");
    read_all(&mut reader, &mut out);
    reader.finish(true, &mut out);
    assert_eq!(numbers(&out), (0..10).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_log_that_was_removed_after_a_rotation_has_a_gap() {
    let (mut log, mut out) = (Log::new(), Batch::default());
    let mut reader = LogFiles::new(&log.path(), None);
    log.write(5);
    read_all(&mut reader, &mut out);
    log.rotate(3, false);
    log.write(5);
    fs::remove_dir_all(log.dir.path()).expect("removed");
    read_all(&mut reader, &mut out);
    reader.finish(true, &mut out);
    assert_eq!(numbers(&out), (0..5).map(Some).chain([None]).collect::<Vec<_>>());
}

#[test]
fn bytes_that_are_no_record_end_somewhere_and_are_told() {
    let (mut log, mut out) = (Log::new(), Batch::default());
    log.write(1);
    log.file.write_all(&vec![0; 600_000]).expect("written");
    log.write(1);
    log.write(1);
    let mut reader = LogFiles::new(&log.path(), None);
    read_all(&mut reader, &mut out);
    let got = numbers(&out);
    assert_eq!((got[0], got[1], got.last()), (Some(0), None, Some(&Some(2))));
}

#[derive(Debug, Clone)]
enum Step {
    Write(u32),
    Rotate { compress: bool },
    Read { limit: usize },
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_writing_rotating_reading_and_restarting_loses_and_repeats_nothing(
        steps in proptest::collection::vec(
            prop_oneof![
                4 => (1u32..40).prop_map(Step::Write),
                1 => any::<bool>().prop_map(|compress| Step::Rotate { compress }),
                4 => (1usize..2000).prop_map(|limit| Step::Read { limit }),
                2 => Just(Step::Restart),
            ],
            1..40,
        ),
    ) {
        let (mut log, mut out) = (Log::new(), Batch::default());
        let mut reader = LogFiles::new(&log.path(), None);
        // What was read but not committed is read again.
        let mut committed = Batch::default();
        for step in steps {
            match step {
                Step::Write(lines) => log.write(lines),
                // So many are kept that none is lost.
                Step::Rotate { compress } => log.rotate(60, compress),
                Step::Read { limit } => {
                    let before = out.len();
                    reader.read(limit, &mut out).expect("read");
                    if out.len() > before {
                        committed = out.clone();
                    }
                }
                Step::Restart if !committed.is_empty() => {
                    reader = restart(&reader, &log);
                    out = committed.clone();
                }
                Step::Restart => {
                    reader = LogFiles::new(&log.path(), None);
                    out = Batch::default();
                }
            }
        }
        read_all(&mut reader, &mut out);
        prop_assert_eq!(numbers(&out), (0..log.next).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn any_writing_and_cutting_is_followed_and_every_loss_is_told(
        steps in proptest::collection::vec((1u32..30, 0u8..4), 1..30),
        keep in 1u32..4,
    ) {
        let (mut log, mut out) = (Log::new(), Batch::default());
        let kept = usize::try_from(keep).ok();
        let mut reader = LogFiles::new(&log.path(), None).keeping(kept);
        read_all(&mut reader, &mut out);
        for (lines, step) in steps {
            log.write(lines);
            match step {
                0 => log.rotate(keep, false),
                1 => read_all(&mut reader, &mut out),
                _ => {}
            }
        }
        read_all(&mut reader, &mut out);
        let got = numbers(&out);
        let (mut expected, mut excused) = (0, false);
        for number in got {
            match number {
                None => excused = true,
                Some(number) => {
                    prop_assert!(number == expected || (number > expected && excused));
                    expected = number + 1;
                    excused = false;
                }
            }
        }
        prop_assert!(expected == log.next || excused || keep == 1);
    }
}
