//! The schema of the log database, as a list that only ever grows at its end.

/// An entry that was released is never changed.
pub(super) const LOGS: &[&str] = &["
    CREATE TABLE log_state (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        store INTEGER NOT NULL,         -- random; tells cursors of this database
        next_seq INTEGER NOT NULL,      -- number of the next entry
        retired INTEGER NOT NULL        -- segments that retention took, ever
    ) STRICT;
    CREATE TABLE log_sources (
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- readers remember it
        container_id TEXT NOT NULL UNIQUE,
        about TEXT NOT NULL,            -- names, hashes, labels, JSON
        next_position INTEGER NOT NULL, -- number of its next entry
        checkpoint TEXT,                -- how far its log was read, JSON
        complete INTEGER NOT NULL,      -- 1: read to the end of its last run
        removed INTEGER NOT NULL,       -- 1: the container is gone
        retired_seq INTEGER NOT NULL    -- its last entry that retention took
    ) STRICT;
    CREATE TABLE log_segments (
        id INTEGER PRIMARY KEY,
        source INTEGER NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        first_position INTEGER NOT NULL,
        lines INTEGER NOT NULL,
        min_time INTEGER NOT NULL,      -- nanoseconds since 1970
        max_time INTEGER NOT NULL,
        raw_bytes INTEGER NOT NULL,     -- texts with newlines
        stored_bytes INTEGER NOT NULL,
        codec INTEGER NOT NULL,         -- 0: as it is, 1: zstd
        runs BLOB,                      -- numbers, where they are not in one row
        meta BLOB NOT NULL,             -- flags and times
        text BLOB NOT NULL
    ) STRICT;
    -- Everything but the blobs, so that a walk reads no page of a text.
    CREATE UNIQUE INDEX log_segments_by_source ON log_segments (
        source, first_seq, last_seq, first_position, lines, min_time, max_time,
        raw_bytes, stored_bytes, codec
    );
"];
