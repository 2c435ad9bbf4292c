-- 0002_types: safe while the previous release serves, for it fills the column by its default. Why: a consumer is brought
-- the types it listens to, instead of reading everything to throw most of it away.
SET LOCAL lock_timeout = '2s';

-- The record's `ce_type`; empty where that is no plain name or the record is older: such a record goes to every group.
ALTER TABLE log_record ADD COLUMN type text NOT NULL DEFAULT '';
