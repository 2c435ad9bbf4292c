-- 0001_inventory: safe on an empty database. Why: stock, the holds on it, and what moved it (PROTOCOL 4.2).
SET LOCAL lock_timeout = '2s';

-- One row per merchant and SKU. Quantities are thousandths of the unit.
CREATE TABLE stock (
    merchant_id uuid NOT NULL,
    -- Upper case. COLLATE "C": the order of the index is the order of bytes, and of locks (PROTOCOL 4.2).
    sku text COLLATE "C" NOT NULL,
    description text NOT NULL DEFAULT '',
    hsn text NOT NULL DEFAULT '',
    unit text NOT NULL,
    on_hand_milli bigint NOT NULL DEFAULT 0,
    reserved_milli bigint NOT NULL DEFAULT 0,
    -- Units owed after a restore that lost stock (PROTOCOL 12); 0 in a healthy database.
    deficit_milli bigint NOT NULL DEFAULT 0,
    -- Counts changes of what is on hand and of the description; holds do not change it.
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stock_pkey PRIMARY KEY (merchant_id, sku),
    CONSTRAINT stock_sku_grammar CHECK (sku ~ '^[A-Z0-9._/@-]{1,80}$'),
    CONSTRAINT stock_each_unit_given_once CHECK (
        on_hand_milli >= 0 AND reserved_milli >= 0 AND deficit_milli >= 0
        AND reserved_milli <= on_hand_milli + deficit_milli
    ),
    -- 10^17 thousandths; sums of a thousand such rows still fit a bigint column.
    CONSTRAINT stock_on_hand_bounded CHECK (on_hand_milli <= 100000000000000000)
) WITH (fillfactor = 70); -- room on the page: a hold changes no indexed column, so its update stays there (HOT)

-- A hold on stock and where it stands. Items as two arrays, one entry per SKU in the order of SKUs: one row a hold,
-- and reserved = sum over PENDING and HELD stays one query (PROTOCOL 15, I2).
CREATE TABLE reservation (
    merchant_id uuid NOT NULL,
    reservation_id uuid NOT NULL,
    -- Who settles it. Part of the key: what a merchant writes under an id it can compute never meets the invoice's hold.
    resolver text NOT NULL,
    state text NOT NULL,
    rid uuid NOT NULL,
    attempt integer NOT NULL,
    -- SHA-256 of the request it was made for. Absent on a tombstone that matches every request.
    fingerprint bytea,
    skus text[] COLLATE "C" NOT NULL,
    quantities_milli bigint[] NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz,
    CONSTRAINT reservation_pkey PRIMARY KEY (merchant_id, reservation_id, resolver),
    CONSTRAINT reservation_resolver_known CHECK (resolver IN ('NONE', 'INVOICE')),
    -- HELD and REVERSED are for holds that an invoice settles, EXPIRED for those nobody does.
    CONSTRAINT reservation_state_known CHECK (
        state IN ('PENDING', 'COMMITTED', 'RELEASED')
        OR (resolver = 'INVOICE' AND state IN ('HELD', 'REVERSED'))
        OR (resolver = 'NONE' AND state = 'EXPIRED')
    ),
    CONSTRAINT reservation_attempt_positive CHECK (attempt >= 1),
    CONSTRAINT reservation_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT reservation_items_paired CHECK (cardinality(skus) = cardinality(quantities_milli)),
    CONSTRAINT reservation_quantities_positive CHECK (0 < ALL (quantities_milli)),
    -- Only a tombstone holds nothing.
    CONSTRAINT reservation_holds_something CHECK (cardinality(skus) > 0 OR state = 'RELEASED'),
    -- No timer ends a hold that a decision ends (PROTOCOL 5).
    CONSTRAINT reservation_expires_only_unresolved CHECK (resolver = 'NONE' OR expire_time IS NULL)
) WITH (fillfactor = 85);
-- What waits for a decision, oldest first.
CREATE INDEX reservation_pending ON reservation (resolver, create_time, reservation_id) WHERE state = 'PENDING';
CREATE INDEX reservation_pending_of_merchant ON reservation (merchant_id, create_time, reservation_id)
WHERE state = 'PENDING' AND resolver = 'NONE';
CREATE INDEX reservation_expiring ON reservation (expire_time) WHERE state = 'PENDING' AND resolver = 'NONE';
-- What the purger takes after 8 days.
CREATE INDEX reservation_ended ON reservation (update_time) WHERE state IN ('RELEASED', 'EXPIRED');

-- Every change of a quantity on hand: on_hand = sum of the deltas, always (PROTOCOL 15, I1).
CREATE TABLE movement (
    merchant_id uuid NOT NULL,
    -- H("mov/1", cause, sku, kind): one per cause, SKU and kind, however often it is asked for.
    movement_id uuid NOT NULL,
    sku text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    delta_milli bigint NOT NULL,
    invoice_id uuid,
    reservation_id uuid,
    reason text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT movement_pkey PRIMARY KEY (merchant_id, movement_id),
    CONSTRAINT movement_kind_known CHECK (kind IN ('ADJUSTMENT', 'SALE', 'PURCHASE', 'ISSUE', 'RETURN')),
    CONSTRAINT movement_sign_fits_kind CHECK (
        kind = 'ADJUSTMENT'
        OR (kind IN ('SALE', 'ISSUE') AND delta_milli < 0)
        OR (kind IN ('PURCHASE', 'RETURN') AND delta_milli > 0)
    )
);
CREATE INDEX movement_newest ON movement (merchant_id, create_time, movement_id);
CREATE INDEX movement_newest_of_sku ON movement (merchant_id, sku, create_time, movement_id);
