-- 0003_fence: numbers begin at 1 again when it comes back; only take it down with whoever writes under them.
SET LOCAL lock_timeout = '2s';
DROP TABLE fence;
