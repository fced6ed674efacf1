DROP INDEX battery_effects_queue_wakers;
DROP TABLE battery_effects_skipped;
