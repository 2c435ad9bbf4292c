-- 0001_broker: safe on an empty database. Why: events reach their consumers without a broker to install.
-- The keys begin with the topic, not with a merchant: the broker is one for all, like the Kafka it stands in for.
SET LOCAL lock_timeout = '2s';

-- The head of each partition of a topic. Whoever appends holds its row until COMMIT, so offset order = commit order.
CREATE TABLE topic_partition (
    topic text NOT NULL,
    partition smallint NOT NULL,
    next_offset bigint NOT NULL DEFAULT 0,
    CONSTRAINT topic_partition_pkey PRIMARY KEY (topic, partition),
    CONSTRAINT topic_partition_offset_counts CHECK (next_offset >= 0)
)
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The log. Never updated; the oldest records are deleted after their retention.
CREATE TABLE log_record (
    topic text NOT NULL,
    partition smallint NOT NULL,
    log_offset bigint NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    -- Names and values as text, in their order; `ce_id`, `traceparent` and so on.
    headers json NOT NULL,
    append_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT log_record_pkey PRIMARY KEY (topic, partition, log_offset)
);

-- What each consumer group reads next. A row from the moment the group first asks: what it has not read is kept for it.
CREATE TABLE group_position (
    consumer_group text NOT NULL,
    topic text NOT NULL,
    partition smallint NOT NULL,
    next_offset bigint NOT NULL DEFAULT 0,
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT group_position_pkey PRIMARY KEY (consumer_group, topic, partition),
    CONSTRAINT group_position_offset_counts CHECK (next_offset >= 0)
)
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX group_position_topic ON group_position (topic, partition);
