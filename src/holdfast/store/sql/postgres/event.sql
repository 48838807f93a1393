-- Events. Readers take pages by sequence in one stream, or by position over all streams.

-- name: append_events rows
COPY event (position, origin, sequence, type, payload, meta, recorded_at, digest, format)
FROM STDIN (FORMAT BINARY);

-- name: read_events
SELECT   position, origin, sequence, type, payload, meta, recorded_at, digest, format
FROM     event
WHERE    origin = :origin AND sequence >= :first
ORDER BY sequence
LIMIT    :limit;

-- name: scan_events
SELECT   position, origin, sequence, type, payload, meta, recorded_at, digest, format
FROM     event
WHERE    position > :after
ORDER BY position
LIMIT    :limit;

-- With each event comes the digest of the one before it, to check the chain.
-- name: read_feed
SELECT   stream.name, COALESCE(previous.digest, stream.anchor),
         event.position, event.origin, event.sequence, event.type, event.payload, event.meta,
         event.recorded_at, event.digest, event.format
FROM     event
LEFT JOIN stream ON stream.origin = event.origin
LEFT JOIN event AS previous
         ON previous.origin = event.origin AND previous.sequence = event.sequence - 1
WHERE    event.position > :after AND event.position <= :horizon
ORDER BY event.position
LIMIT    :limit;

-- name: changed_streams
SELECT   DISTINCT stream.name
FROM     event
JOIN     stream ON stream.origin = event.origin
WHERE    event.position > :after AND event.position <= :horizon
AND      event.position NOT IN (
    SELECT CAST(value AS BIGINT) FROM jsonb_array_elements_text(CAST(:own AS JSONB)) AS value
)
LIMIT    :limit;

-- Positions are taken before COMMIT and become visible out of order, so a reader may not go
-- past a position that a transaction under way can still use. Before a transaction takes
-- positions it holds an advisory lock on the last position it saw (`hold_position`); whatever
-- it takes is above that. A reader first asks what is taken, then for the lowest lock held:
-- a position taken before the first query whose transaction is still open shows in the second.
-- name: position_taken
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM position_seq;

-- name: position_held
SELECT MIN(CAST(CAST(objid AS TEXT) AS BIGINT)
           + ((CAST(CAST(classid AS TEXT) AS BIGINT) & 65535) << 32))
FROM   pg_locks
WHERE  locktype = 'advisory' AND objsubid = 1
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (CAST(CAST(classid AS TEXT) AS BIGINT) >> 16) = abs(hashtext(current_schema())) % 32767 + 1;

-- name: trim_events
DELETE FROM event
WHERE  origin = :origin AND sequence < :before;

-- Events whose stream is gone; never there in an undamaged store.
-- name: orphans
SELECT   event.origin, MIN(event.sequence)
FROM     event
LEFT JOIN stream ON stream.origin = event.origin
WHERE    stream.origin IS NULL
GROUP BY event.origin
LIMIT    :limit;
