-- 0003_fence: safe while the previous release serves, for it adds a table only. Why: numbers that tell a late holder of a
-- lock from the present one (PROTOCOL 7, Redlock).
SET LOCAL lock_timeout = '2s';

-- The highest number given out under a name. A row, not a sequence: it commits, replicates and is restored like the rest.
-- On a cluster: a reference table; the names are the platform's, like advisory locks.
CREATE TABLE fence (
    name text NOT NULL,
    number bigint NOT NULL,
    CONSTRAINT fence_pkey PRIMARY KEY (name),
    CONSTRAINT fence_name_bounded CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT fence_number_positive CHECK (number >= 1)
);
