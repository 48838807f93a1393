-- The kernel's tables. The essay is in the SQLite file of the same name; here are the
-- differences. Positions, transaction numbers and epochs come from sequences, so they may have gaps
-- and become visible out of order; `horizon` in store/sql/postgres/event.sql says how far a
-- reader may trust them. Index entries are limited in size, so names are indexed by their
-- first bytes and compared in full.

CREATE SEQUENCE position_seq AS BIGINT CACHE 1;

CREATE SEQUENCE number_seq AS BIGINT CACHE 1;

CREATE SEQUENCE epoch_seq AS BIGINT CACHE 1;

CREATE TABLE store (
    one        SMALLINT         PRIMARY KEY CHECK (one = 1),
    store_id   BYTEA            NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    trimmed    BIGINT           NOT NULL,
    digest     BYTEA            NOT NULL
);

CREATE TABLE stream (
    id             BYTEA    NOT NULL PRIMARY KEY,
    name           BYTEA    NOT NULL,
    origin         BIGINT   NOT NULL,
    last_sequence  BIGINT   NOT NULL,
    last_digest    BYTEA    NOT NULL,
    first_sequence BIGINT   NOT NULL,
    anchor         BYTEA    NOT NULL,
    closed         SMALLINT NOT NULL,
    digest         BYTEA    NOT NULL
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX stream_by_origin ON stream (origin);

CREATE INDEX stream_by_name ON stream (substring(name FROM 1 FOR 512));

CREATE TABLE event (
    position    BIGINT           NOT NULL PRIMARY KEY,
    origin      BIGINT           NOT NULL,
    sequence    BIGINT           NOT NULL,
    type        TEXT             NOT NULL,
    payload     BYTEA            NOT NULL,
    meta        BYTEA,
    recorded_at DOUBLE PRECISION NOT NULL,
    digest      BYTEA            NOT NULL,
    format      SMALLINT         NOT NULL
);

CREATE UNIQUE INDEX event_by_stream ON event (origin, sequence);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0];
END
$$;

CREATE FUNCTION refuse_untrimmed_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.sequence >= (SELECT first_sequence FROM stream WHERE origin = OLD.origin) THEN
        RAISE EXCEPTION 'events go only as a trimmed prefix';
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER event_is_immutable BEFORE UPDATE ON event
FOR EACH ROW EXECUTE FUNCTION refuse_change('events are never changed');

CREATE TRIGGER event_is_kept BEFORE DELETE ON event
FOR EACH ROW EXECUTE FUNCTION refuse_untrimmed_delete();

CREATE TABLE record (
    id         BYTEA            NOT NULL PRIMARY KEY,
    kind       TEXT             NOT NULL,
    key        BYTEA            NOT NULL,
    version    BIGINT           NOT NULL,
    tag        TEXT,
    value      BYTEA,
    written_at DOUBLE PRECISION NOT NULL,
    format     SMALLINT         NOT NULL,
    digest     BYTEA            NOT NULL
) WITH (fillfactor = 70);

CREATE INDEX record_by_key ON record (kind, substring(key FROM 1 FOR 512));

CREATE INDEX record_by_tag ON record (kind, tag, substring(key FROM 1 FOR 512))
WHERE tag IS NOT NULL;

CREATE TABLE lease (
    id          BYTEA            NOT NULL PRIMARY KEY,
    key         BYTEA            NOT NULL,
    generation  BIGINT           NOT NULL,
    incarnation BYTEA            NOT NULL,
    holder      TEXT             NOT NULL,
    domain      TEXT             NOT NULL,
    expires_at  DOUBLE PRECISION NOT NULL,
    digest      BYTEA            NOT NULL
) WITH (fillfactor = 50);

CREATE TRIGGER lease_generation_grows BEFORE UPDATE ON lease
FOR EACH ROW WHEN (NEW.generation < OLD.generation)
EXECUTE FUNCTION refuse_change('generations never go back');

CREATE TRIGGER lease_is_kept BEFORE DELETE ON lease
FOR EACH ROW EXECUTE FUNCTION refuse_change('leases stay, so that generations are never used again');

CREATE TABLE blob (
    content    BYTEA            NOT NULL PRIMARY KEY,
    size       BIGINT           NOT NULL,
    encoding   TEXT             NOT NULL,
    stored     BYTEA            NOT NULL,
    written_at DOUBLE PRECISION NOT NULL,
    format     SMALLINT         NOT NULL,
    digest     BYTEA            NOT NULL
);

CREATE TABLE snapshot (
    id         BYTEA            NOT NULL,
    name       BYTEA            NOT NULL,
    stream     BYTEA            NOT NULL,
    sequence   BIGINT           NOT NULL,
    size       BIGINT           NOT NULL,
    encoding   TEXT             NOT NULL,
    stored     BYTEA            NOT NULL,
    written_at DOUBLE PRECISION NOT NULL,
    format     SMALLINT         NOT NULL,
    digest     BYTEA            NOT NULL,
    PRIMARY KEY (id, sequence)
);

CREATE TABLE outcome (
    number       BIGINT           NOT NULL PRIMARY KEY,
    epoch        BIGINT           NOT NULL,
    position     BIGINT           NOT NULL,
    unit_ids     BYTEA            NOT NULL,
    committed_at DOUBLE PRECISION NOT NULL,
    digest       BYTEA            NOT NULL
);

CREATE TABLE incarnation (
    epoch     BIGINT           NOT NULL PRIMARY KEY,
    id        BYTEA            NOT NULL UNIQUE,
    owner     TEXT             NOT NULL,
    opened_at DOUBLE PRECISION NOT NULL,
    closed_at DOUBLE PRECISION,
    digest    BYTEA            NOT NULL
);
