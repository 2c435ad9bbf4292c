-- 0001_durable: safe on an empty database. Why: every room needs decisions, an outbox and an inbox of its own.
SET LOCAL lock_timeout = '2s';

-- A request's fate is one row here (PROTOCOL R1, 4.1). No row = undecided first attempt.
CREATE TABLE decision (
    merchant_id uuid NOT NULL,
    rid uuid NOT NULL,
    operation text NOT NULL,
    state text NOT NULL,
    attempt integer NOT NULL,
    -- Absent only on a row that the client itself ended: it matches every request.
    fingerprint bytea,
    fp_version smallint,
    reason text,
    -- Response bytes of a success (a create's answer is kept by the invoice), google.rpc.Status of a refusal.
    answer bytea,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT decision_pkey PRIMARY KEY (merchant_id, rid),
    CONSTRAINT decision_state_known CHECK (state IN ('OPEN', 'SUCCEEDED', 'FAILED', 'ABORTED')),
    CONSTRAINT decision_attempt_positive CHECK (attempt >= 1),
    CONSTRAINT decision_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32)
);
-- The purger deletes what is older than 8 days, oldest first.
CREATE INDEX decision_update_time ON decision (update_time);

-- Facts to be published, written in the transaction that made them true (PROTOCOL 10).
CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    merchant_id uuid NOT NULL,
    event_id uuid NOT NULL,
    aggregate_id uuid NOT NULL,
    version bigint NOT NULL,
    -- hash(aggregate_id) % 32: one relay at a time owns one.
    partition smallint NOT NULL,
    type text NOT NULL,
    payload bytea NOT NULL,
    traceparent text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_pkey PRIMARY KEY (merchant_id, event_id),
    CONSTRAINT outbox_partition_known CHECK (partition BETWEEN 0 AND 31)
)
-- A queue: every row is deleted soon after it was written. Vacuum by count, not by a share of a table that is empty.
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX outbox_partition_seq ON outbox (partition, seq);

-- Which consumer has seen which event; written in the transaction of the effect.
CREATE TABLE inbox (
    merchant_id uuid NOT NULL,
    consumer text NOT NULL,
    event_id uuid NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT inbox_pkey PRIMARY KEY (merchant_id, consumer, event_id)
);
CREATE INDEX inbox_create_time ON inbox (create_time);
