//! Any split of the engine's bytes gives the same pieces, and no bytes break it.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

type Told = Vec<(Stream, i64, Vec<u8>)>;

const NOON: i64 = 1_767_268_800_000_000_000;

fn stamp(time: i64) -> String {
    let at = Timestamp::from_nanosecond(i128::from(time)).expect("in range");
    format!("{at:.9} ")
}

fn framed(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&[number, 0, 0, 0], length.as_slice(), payload].concat()
}

/// As the engine tells pieces.
fn bytes(tty: bool, pieces: &Told) -> Vec<u8> {
    let one = |(stream, time, text): &(Stream, i64, Vec<u8>)| {
        let payload = [stamp(*time).as_bytes(), text].concat();
        let number = if *stream == Stream::Stdout { 1 } else { 2 };
        if tty { payload } else { framed(number, &payload) }
    };
    pieces.iter().flat_map(one).collect()
}

/// Reads the bytes in parts of these lengths, over and over.
fn read(tty: bool, bytes: &[u8], lengths: &[usize]) -> (Told, Result<(), FrameError>) {
    let (mut frames, mut told, mut rest) = (Frames::new(tty), Vec::new(), bytes);
    let mut each = |piece: Piece<'_>| told.push((piece.stream, piece.time, piece.text.to_vec()));
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let now = rest.split_off(..(*length).min(rest.len())).expect("not longer");
        if let Err(error) = frames.push(now, &mut each) {
            return (told, Err(error));
        }
        assert!(frames.held.len() <= HEADER + MAX_STAMP + MAX_TEXT + STEP);
    }
    let end = frames.finish(&mut each);
    (told, end)
}

fn whole(tty: bool, bytes: &[u8]) -> (Told, Result<(), FrameError>) {
    read(tty, bytes, &[bytes.len().max(1)])
}

/// Lines, full pieces, empty lines, bytes that are no text, and times in texts.
fn pieces() -> impl Strategy<Value = Told> {
    let text = prop_oneof![
        "[a-z \r]{0,30}\n".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>().prop_filter("one line", |b| *b != b'\n'), 0..20)
            .prop_map(|mut text| {
                text.push(b'\n');
                text
            }),
        "[a-z]".prop_map(|letter| letter.repeat(16384).into_bytes()),
        Just(format!("{}at {}is past\n", stamp(NOON - 1), stamp(NOON - 2)).into_bytes()),
    ];
    proptest::collection::vec((any::<bool>(), 0i64..100, text), 1..12).prop_map(|all| {
        // The clock of one log goes on, as it does but for jumps.
        let mut time = NOON;
        all.into_iter()
            .map(|(out, later, text)| {
                time += later;
                (if out { Stream::Stdout } else { Stream::Stderr }, time, text)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn any_split_of_frames_gives_the_same_pieces(
        pieces in pieces(), lengths in proptest::collection::vec(1usize..9000, 1..20),
    ) {
        let bytes = bytes(false, &pieces);
        prop_assert_eq!(read(false, &bytes, &lengths), (pieces, Ok(())));
    }

    #[test]
    fn any_split_of_a_terminals_log_gives_the_same_pieces(
        mut pieces in pieces(), lengths in proptest::collection::vec(1usize..9000, 1..20),
    ) {
        pieces.iter_mut().for_each(|piece| piece.0 = Stream::Stdout);
        let bytes = bytes(true, &pieces);
        prop_assert_eq!(read(true, &bytes, &lengths), (pieces, Ok(())));
    }

    #[test]
    fn any_cut_is_truncation_unless_it_is_between_frames(
        pieces in pieces(), at in any::<prop::sample::Index>(),
    ) {
        let bytes = bytes(false, &pieces);
        let at = at.index(bytes.len());
        let (told, end) = whole(false, &bytes[..at]);
        prop_assert_eq!(&told[..], &pieces[..told.len()]);
        let between = super::tests::bytes(false, &told).len() == at;
        prop_assert_eq!(end, if between { Ok(()) } else { Err(FrameError::Truncated) });
    }

    #[test]
    fn no_bytes_make_it_fall_or_grow(
        tty: bool, begin in pieces(), bytes in any::<Vec<u8>>(),
        lengths in proptest::collection::vec(1usize..50, 1..9),
    ) {
        let bytes = [super::tests::bytes(tty, &begin), bytes].concat();
        // An error shows what was read so far, which depends on the split.
        let kind = |(told, end): (Told, Result<(), FrameError>)| {
            (told, end.map_err(|error| std::mem::discriminant(&error)))
        };
        prop_assert_eq!(kind(read(tty, &bytes, &lengths)), kind(whole(tty, &bytes)));
    }
}

#[test]
fn a_header_may_be_split_at_each_of_its_bytes() {
    let pieces = vec![(Stream::Stdout, NOON, b"a\n".to_vec()), (Stream::Stderr, 7, b"b".to_vec())];
    let bytes = bytes(false, &pieces);
    for at in 1..bytes.len() {
        assert_eq!(read(false, &bytes, &[at, bytes.len() - at]), (pieces.clone(), Ok(())), "{at}");
    }
}

#[test]
fn what_is_no_frame_is_named() {
    let bad = |bytes: &[u8]| whole(false, bytes).1.expect_err("refused");
    assert_eq!(bad(b"{\"Id\""), FrameError::Stream(b'{'));
    assert_eq!(bad(&[4, 0, 0, 0, 0, 0, 0, 0]), FrameError::Stream(4));
    assert_eq!(bad(&[1, 0, 0, 0, 255, 255, 255, 255]), FrameError::Length(u32::MAX.into()));
    assert_eq!(bad(&framed(1, b"no time\n")), FrameError::Time("no time".into()));
    assert_eq!(bad(&framed(1, b"")), FrameError::Time(String::new()));
    let error = framed(3, b"Error grabbing logs: broken\n");
    assert_eq!(bad(&error), FrameError::Engine("Error grabbing logs: broken".into()));
    let told = whole(true, b"Error grabbing logs: broken\n").1;
    assert_eq!(told, Err(FrameError::Time("Error grabbing logs: broken".into())));
}

#[test]
fn an_endless_piece_is_refused_before_it_fills_the_memory() {
    let mut endless = stamp(NOON).into_bytes();
    endless.resize(4 << 20, b'x');
    for length in [1 << 20, 4 << 20] {
        let (told, end) = read(true, &endless, &[length]);
        assert!(told.is_empty() && matches!(end, Err(FrameError::Length(_))), "{end:?}");
    }
}

#[test]
fn last_words_on_a_terminal_end_where_the_next_run_begins() {
    let text = format!("{}bye{}hello\n{}bye", stamp(NOON), stamp(NOON + 9), stamp(NOON + 10));
    let (told, end) = read(true, text.as_bytes(), &[1]);
    let told: Vec<_> = told.iter().map(|(_, time, text)| (time - NOON, text.as_slice())).collect();
    assert_eq!(told, [(0, &b"bye"[..]), (9, b"hello\n"), (10, b"bye")]);
    assert_eq!(end, Ok(()));
}

#[test]
fn a_time_cut_in_two_by_the_end_is_truncation() {
    let text = stamp(NOON);
    assert_eq!(whole(true, &text.as_bytes()[..20]).1, Err(FrameError::Truncated));
}
