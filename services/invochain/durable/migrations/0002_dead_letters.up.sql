-- 0002_dead_letters: safe while the previous release serves, for it adds tables only. Why: what cannot be done by itself
-- waits for an operator, and what would overtake it waits behind it (PROTOCOL 14).
SET LOCAL lock_timeout = '2s';

-- One thing that was not done, and why. What is to be done is never stored: it is derived anew from what decides.
CREATE TABLE dead_letter (
    merchant_id uuid NOT NULL,
    -- A UUIDv7, so that the order of ids is the order in which letters were opened.
    dead_letter_id uuid NOT NULL,
    kind text NOT NULL,
    -- Which consumer (CONSUME); else empty.
    consumer text NOT NULL DEFAULT '',
    -- What it is about: an event's id (PUBLISH, CONSUME) or a hold's (CONFIRM, RELEASE, SELL, REVERSE).
    subject text NOT NULL,
    -- Whose order it keeps, for example an invoice's id; as text, for a record that is no event may have any key.
    aggregate text NOT NULL,
    -- The request a hold was made for.
    rid uuid,
    attempt integer,
    fingerprint bytea,
    -- A reason of ErrorReason, or the kind of failure.
    reason text NOT NULL,
    detail text NOT NULL DEFAULT '',
    attempts integer NOT NULL,
    trace_id text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'OPEN',
    version bigint NOT NULL DEFAULT 1,
    first_time timestamptz NOT NULL DEFAULT now(),
    last_time timestamptz NOT NULL DEFAULT now(),
    -- Set while a discard waits for its second approver, and once it has one.
    discard_reason text,
    proposer_id uuid,
    CONSTRAINT dead_letter_pkey PRIMARY KEY (merchant_id, dead_letter_id),
    CONSTRAINT dead_letter_once UNIQUE (merchant_id, kind, consumer, subject),
    CONSTRAINT dead_letter_kind_known CHECK (
        kind IN ('CONFIRM', 'RELEASE', 'SELL', 'REVERSE', 'PUBLISH', 'CONSUME', 'RECONCILE')
    ),
    CONSTRAINT dead_letter_state_known CHECK (state IN ('OPEN', 'REPLAYING', 'DONE', 'DISCARDED')),
    CONSTRAINT dead_letter_attempts_counted CHECK (attempts >= 1),
    CONSTRAINT dead_letter_consumer_named CHECK ((kind = 'CONSUME') = (consumer <> '')),
    CONSTRAINT dead_letter_discard_has_a_reason CHECK (
        (discard_reason IS NULL) = (proposer_id IS NULL) AND (state <> 'DISCARDED' OR discard_reason IS NOT NULL)
    )
);
-- Operators' lists, newest first, over all merchants.
CREATE INDEX dead_letter_newest ON dead_letter (dead_letter_id);
CREATE INDEX dead_letter_waiting ON dead_letter (first_time) WHERE state IN ('OPEN', 'REPLAYING');
CREATE INDEX dead_letter_of_aggregate ON dead_letter (aggregate, consumer) WHERE state <> 'DONE';

-- What was done to a letter, and by whom: one row a version, never changed.
CREATE TABLE dead_letter_action (
    merchant_id uuid NOT NULL,
    dead_letter_id uuid NOT NULL,
    -- Of the letter after it.
    version bigint NOT NULL,
    action text NOT NULL,
    -- The operator; absent where the system did it.
    actor_id uuid,
    note text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT dead_letter_action_pkey PRIMARY KEY (merchant_id, dead_letter_id, version)
);

-- An aggregate whose events go nowhere until an operator says so. `consumer` is empty where the relay parked it.
CREATE TABLE parked_aggregate (
    merchant_id uuid NOT NULL,
    consumer text NOT NULL,
    aggregate text NOT NULL,
    -- Its events are being handled, in order; what arrives meanwhile goes behind them.
    draining boolean NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT parked_aggregate_pkey PRIMARY KEY (merchant_id, consumer, aggregate)
);
-- A record that is no event has no merchant, but stands in the way of its key all the same.
CREATE INDEX parked_aggregate_of_consumer ON parked_aggregate (consumer, aggregate);

-- Its events: the one that failed, and those that came behind it.
CREATE TABLE parked_event (
    merchant_id uuid NOT NULL,
    consumer text NOT NULL,
    aggregate text NOT NULL,
    -- Order within the aggregate: that of the outbox, or the offset in the topic.
    seq bigint NOT NULL,
    -- The event's id; of a record that is no event, its place.
    subject text NOT NULL,
    -- All but the payload.
    envelope json NOT NULL,
    -- The payload under the key `dead-letter`.
    sealed bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT parked_event_pkey PRIMARY KEY (merchant_id, consumer, aggregate, seq)
);
CREATE INDEX parked_event_in_order ON parked_event (consumer, aggregate, seq);
CREATE INDEX parked_event_subject ON parked_event (consumer, subject);
