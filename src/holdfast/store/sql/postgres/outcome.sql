-- Outcomes: which units a transaction committed. Incarnations: who opened the store.

-- name: add_outcome rows
INSERT INTO outcome (number, epoch, position, unit_ids, committed_at, digest)
SELECT *
FROM   unnest(CAST(:number AS BIGINT[]),
              CAST(:epoch AS BIGINT[]),
              CAST(:position AS BIGINT[]),
              CAST(:unit_ids AS BYTEA[]),
              CAST(:committed_at AS DOUBLE PRECISION[]),
              CAST(:digest AS BYTEA[]));

-- name: last_outcome
SELECT   number, position
FROM     outcome
ORDER BY number DESC
LIMIT    1;

-- What is last, and whether another opening committed any of what came after a number.
-- name: find_news
SELECT   number,
         position,
         EXISTS (SELECT 1 FROM outcome WHERE number > :after AND epoch <> :own)
FROM     outcome
ORDER BY number DESC
LIMIT    1;

-- name: find_outcome
SELECT number
FROM   outcome
WHERE  number > :after AND POSITION(CAST(:unit_id AS BYTEA) IN unit_ids) > 0
LIMIT  1;

-- name: oldest_outcomes
SELECT   number, committed_at
FROM     outcome
ORDER BY number
LIMIT    :limit;

-- name: trim_outcomes
DELETE FROM outcome
WHERE  number <= :until;

-- Up to which number outcomes are gone; several processes may trim, so it only grows.
-- name: note_trimmed
UPDATE store
SET    trimmed = :until,
       digest  = :digest
WHERE  trimmed < :until;

-- name: scan_outcomes
SELECT   number, epoch, position, unit_ids, committed_at, digest
FROM     outcome
WHERE    number > :after
ORDER BY number
LIMIT    :limit;

-- name: take_epoch
SELECT nextval('epoch_seq');

-- name: add_incarnation
INSERT INTO incarnation (epoch, id, owner, opened_at, closed_at, digest)
VALUES (:epoch, :id, :owner, :opened_at, :closed_at, :digest);

-- name: find_incarnation
SELECT epoch FROM incarnation WHERE id = :id AND closed_at IS NULL;

-- name: last_epoch
SELECT COALESCE(MAX(epoch), 0) FROM incarnation;

-- name: close_incarnation
UPDATE incarnation
SET    closed_at = :closed_at,
       digest    = :digest
WHERE  id = :id;

-- name: scan_incarnations
SELECT   epoch, id, owner, opened_at, closed_at, digest
FROM     incarnation
WHERE    epoch > :after
ORDER BY epoch
LIMIT    :limit;

-- Where counting goes on in a store that was filled with rows.
-- name: set_counters
SELECT setval('number_seq', GREATEST(1, CAST(:number AS BIGINT)), CAST(:number AS BIGINT) > 0),
       setval('position_seq', GREATEST(1, CAST(:position AS BIGINT)), CAST(:position AS BIGINT) > 0),
       setval('epoch_seq', GREATEST(1, CAST(:epoch AS BIGINT)), CAST(:epoch AS BIGINT) > 0);

-- name: add_store
INSERT INTO store (one, store_id, created_at, trimmed, digest)
VALUES (1, :store_id, :created_at, :trimmed, :digest);

-- name: read_store
SELECT store_id, created_at, trimmed, digest FROM store;
