DROP INDEX charges_failed;
DROP TABLE message_attempts, message_deliveries, message_lanes, message_secrets, message_endpoints,
    message_counter;
DROP INDEX outbox_messages_written, outbox_messages_position, outbox_messages_new;
DELETE FROM outbox_messages WHERE payload IS NULL;
ALTER TABLE outbox_messages
    DROP COLUMN object,
    DROP COLUMN position,
    ALTER COLUMN payload SET NOT NULL;
