-- 0004_letters_done: safe while the previous release serves, for it adds an index only. Why: letters that are done are purged.
-- Few rows: the table holds what operators did to letters.
-- squawk-ignore-file require-concurrent-index-creation
SET LOCAL lock_timeout = '2s';

-- The purger deletes what was closed 30 days ago, oldest first.
CREATE INDEX dead_letter_action_closed ON dead_letter_action (create_time) WHERE action = 'CLOSE';
