-- 0002_dead_letters: events that are parked are gone with it; replay or discard every dead letter first.
DROP TABLE parked_event, parked_aggregate, dead_letter_action, dead_letter;
