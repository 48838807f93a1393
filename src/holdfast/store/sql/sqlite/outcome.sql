-- Outcomes: which units a transaction committed. Incarnations: who opened the store.

-- name: add_outcome rows
INSERT INTO outcome (number, epoch, position, unit_ids, committed_at, digest)
VALUES (:number, :epoch, :position, :unit_ids, :committed_at, :digest);

-- name: last_outcome
SELECT   number, position
FROM     outcome
ORDER BY number DESC
LIMIT    1;

-- The last number whose outcome is not kept any more.
-- name: trimmed_number
SELECT trimmed FROM store;

-- name: find_outcome
SELECT number
FROM   outcome
WHERE  number > :after AND INSTR(unit_ids, :unit_id) > 0
LIMIT  1;

-- name: oldest_outcomes
SELECT   number, committed_at
FROM     outcome
ORDER BY number
LIMIT    :limit;

-- name: trim_outcomes
DELETE FROM outcome
WHERE  number <= :until;

-- name: note_trimmed
UPDATE store
SET    trimmed = :until;

-- name: scan_outcomes
SELECT   number, epoch, position, unit_ids, committed_at, digest
FROM     outcome
WHERE    number > :after
ORDER BY number
LIMIT    :limit;

-- name: add_incarnation
INSERT INTO incarnation (id, owner, opened_at)
VALUES (:id, :owner, :opened_at)
RETURNING epoch;

-- name: find_incarnation
SELECT epoch FROM incarnation WHERE id = :id AND closed_at IS NULL;

-- name: close_incarnation
UPDATE incarnation
SET    closed_at = :closed_at
WHERE  id = :id;

-- name: add_store
INSERT INTO store (one, store_id, created_at)
VALUES (1, :store_id, :created_at);

-- name: read_store
SELECT store_id FROM store;
