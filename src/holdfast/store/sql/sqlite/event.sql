-- Events. Readers take pages by sequence in one stream, or by position over all streams.

-- name: append_events rows
INSERT INTO event (position, origin, sequence, type, payload, meta, recorded_at, digest, format)
VALUES (:position, :origin, :sequence, :type, :payload, :meta, :recorded_at, :digest, :format);

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
AND      event.position NOT IN (SELECT value FROM json_each(:own))
LIMIT    :limit;

-- The last position that is taken, and the lowest one that a transaction under way may still
-- use. Here there is one writer at a time, so what is visible is all there is.
-- name: position_taken
SELECT MAX(position) FROM event;

-- name: position_held
SELECT NULL;

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
