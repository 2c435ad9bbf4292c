-- 0002_types: undone while nothing publishes; nothing is lost, for the headers have the type too.
SET LOCAL lock_timeout = '2s';

ALTER TABLE log_record DROP COLUMN type;
