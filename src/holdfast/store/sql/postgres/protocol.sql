-- How transactions of several processes stay out of each other's way. Only PostgreSQL needs
-- these. Advisory locks are numbers; the upper 16 bits say which store (schema) and which lock.

-- Taken shared by every batch and by nobody else for long. Who takes it exclusively has waited
-- for every transaction under way, so an outcome that is absent then is absent for good.
-- Then: lock the last position, as `position_held` wants it, before any is taken. And look at
-- the server's clock, and whether it still knows this incarnation.
-- name: enter_batch
SELECT pg_advisory_xact_lock_shared((32768 + abs(hashtext(current_schema())) % 32768)),
       pg_advisory_xact_lock_shared(
           (CAST(abs(hashtext(current_schema())) % 32767 + 1 AS BIGINT) << 48)
           + CASE WHEN is_called THEN last_value ELSE 0 END),
       CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION),
       EXISTS (SELECT 1 FROM incarnation WHERE id = :incarnation AND closed_at IS NULL)
FROM   position_seq;

-- name: wait_for_batches
SELECT pg_advisory_xact_lock((32768 + abs(hashtext(current_schema())) % 32768));

-- A transaction number, and so many positions.
-- name: take_numbers
SELECT nextval('number_seq'), ARRAY(SELECT nextval('position_seq') FROM generate_series(1, :count));

-- What `append_events` does, for sets so small that a round trip of its own costs more.
-- name: append_few_events rows
INSERT INTO event (position, origin, sequence, type, payload, meta, recorded_at, digest, format)
SELECT *
FROM   unnest(CAST(:position AS BIGINT[]),
              CAST(:origin AS BIGINT[]),
              CAST(:sequence AS BIGINT[]),
              CAST(:type AS TEXT[]),
              CAST(:payload AS BYTEA[]),
              CAST(:meta AS BYTEA[]),
              CAST(:recorded_at AS DOUBLE PRECISION[]),
              CAST(:digest AS BYTEA[]),
              CAST(:format AS SMALLINT[]));

-- One migration at a time; the lock ends with the transaction.
-- name: lock_migrations
SELECT pg_advisory_xact_lock((65536 + abs(hashtext(current_schema())) % 32768));

-- name: notify
SELECT pg_notify('holdfast_' || current_schema(), :epoch);

-- For the length of the session.
-- name: set_setting
SELECT set_config(:setting, :value, false);

-- name: settings
SELECT current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('synchronous_commit'), current_setting('server_version'),
       pg_is_in_recovery(), CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION);
