DROP TABLE group_position;
DROP TABLE log_record;
DROP TABLE topic_partition;
