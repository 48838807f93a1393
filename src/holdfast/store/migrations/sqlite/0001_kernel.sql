-- The kernel's tables.
--
-- A *stream* has one row, its head: where it begins and ends, and the digest of its last event.
-- Its *events* name it by `origin`, the position at which it began. Events are appended in
-- position order, so the table grows at its end; the index finds them by stream and sequence.
-- Events are never changed; a prefix goes when the head says that the stream now begins later.
--
-- A *record* is the current value of something, under a kind and a key. A deleted one stays as
-- a row without value, so that versions go on counting. A *lease* row stays after release, so
-- that generations do. *Blobs* and *snapshots* hold bytes, compressed where that helps.
--
-- Each transaction leaves an *outcome* row with the ids of the units it committed and the last
-- position taken, so that positions are never taken twice, also when events were trimmed. Each opening
-- of the store leaves an *incarnation* row; its number is the epoch.
--
-- `id` columns hold 16 bytes derived from the name or key beside them: an index entry of fixed
-- size for names of any length. `digest` covers all other columns of its row.

CREATE TABLE store (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    store_id   BLOB    NOT NULL,
    created_at REAL    NOT NULL,
    trimmed    INTEGER NOT NULL,
    digest     BLOB    NOT NULL
) STRICT;

CREATE TABLE stream (
    id             BLOB    NOT NULL PRIMARY KEY,
    name           BLOB    NOT NULL,
    origin         INTEGER NOT NULL,
    last_sequence  INTEGER NOT NULL,
    last_digest    BLOB    NOT NULL,
    first_sequence INTEGER NOT NULL,
    anchor         BLOB    NOT NULL,
    closed         INTEGER NOT NULL,
    digest         BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX stream_by_origin ON stream (origin);

CREATE INDEX stream_by_name ON stream (name);

CREATE TABLE event (
    position    INTEGER NOT NULL PRIMARY KEY,
    origin      INTEGER NOT NULL,
    sequence    INTEGER NOT NULL,
    type        TEXT    NOT NULL,
    payload     BLOB    NOT NULL,
    meta        BLOB,
    recorded_at REAL    NOT NULL,
    digest      BLOB    NOT NULL,
    format      INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX event_by_stream ON event (origin, sequence);

CREATE TRIGGER event_is_immutable BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never changed');
END;

CREATE TRIGGER event_is_kept BEFORE DELETE ON event
WHEN OLD.sequence >= (SELECT first_sequence FROM stream WHERE origin = OLD.origin)
BEGIN
    SELECT RAISE(ABORT, 'events go only as a trimmed prefix');
END;

CREATE TABLE record (
    id         BLOB    NOT NULL,
    kind       TEXT    NOT NULL,
    key        BLOB    NOT NULL,
    version    INTEGER NOT NULL,
    tag        TEXT,
    value      BLOB,
    written_at REAL    NOT NULL,
    format     INTEGER NOT NULL,
    digest     BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX record_by_id ON record (id);

CREATE INDEX record_by_key ON record (kind, key);

CREATE INDEX record_by_tag ON record (kind, tag, key) WHERE tag IS NOT NULL;

CREATE TABLE lease (
    id          BLOB    NOT NULL PRIMARY KEY,
    key         BLOB    NOT NULL,
    generation  INTEGER NOT NULL,
    incarnation BLOB    NOT NULL,
    holder      TEXT    NOT NULL,
    domain      TEXT    NOT NULL,
    expires_at  REAL    NOT NULL,
    digest      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER lease_generation_grows BEFORE UPDATE ON lease
WHEN NEW.generation < OLD.generation
BEGIN
    SELECT RAISE(ABORT, 'generations never go back');
END;

CREATE TRIGGER lease_is_kept BEFORE DELETE ON lease
BEGIN
    SELECT RAISE(ABORT, 'leases stay, so that generations are never used again');
END;

CREATE TABLE blob (
    content    BLOB    NOT NULL,
    size       INTEGER NOT NULL,
    encoding   TEXT    NOT NULL,
    stored     BLOB    NOT NULL,
    written_at REAL    NOT NULL,
    format     INTEGER NOT NULL,
    digest     BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX blob_by_content ON blob (content);

CREATE TABLE snapshot (
    id         BLOB    NOT NULL,
    name       BLOB    NOT NULL,
    stream     BLOB    NOT NULL,
    sequence   INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    encoding   TEXT    NOT NULL,
    stored     BLOB    NOT NULL,
    written_at REAL    NOT NULL,
    format     INTEGER NOT NULL,
    digest     BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX snapshot_by_id ON snapshot (id, sequence);

CREATE TABLE outcome (
    number       INTEGER NOT NULL PRIMARY KEY,
    epoch        INTEGER NOT NULL,
    position     INTEGER NOT NULL,
    unit_ids     BLOB    NOT NULL,
    committed_at REAL    NOT NULL,
    digest       BLOB    NOT NULL
) STRICT;

CREATE TABLE incarnation (
    epoch     INTEGER NOT NULL PRIMARY KEY,
    id        BLOB    NOT NULL UNIQUE,
    owner     TEXT    NOT NULL,
    opened_at REAL    NOT NULL,
    closed_at REAL,
    digest    BLOB    NOT NULL
) STRICT;
