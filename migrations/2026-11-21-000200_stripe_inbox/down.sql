DROP TABLE stripe_objects, stripe_inbox_queue, stripe_inbox_redeliveries, stripe_inbox;
