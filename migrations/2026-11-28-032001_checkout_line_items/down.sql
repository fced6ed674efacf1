DROP INDEX checkout_sessions_without_items;
ALTER TABLE checkout_sessions DROP COLUMN line_items_complete;
DROP TABLE checkout_line_items;
