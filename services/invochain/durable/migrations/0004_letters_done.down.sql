-- 0004_letters_done down: safe while the previous release serves.
DROP INDEX dead_letter_action_closed;
