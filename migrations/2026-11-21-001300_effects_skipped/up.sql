-- Kinds of payments that were passed over while nothing was sold: no price of a plan and no pack, so nothing could come of them.
-- Whoever makes the first has them looked at.
CREATE TABLE battery_effects_skipped (
    kind text PRIMARY KEY CHECK (kind IN ('invoice', 'checkout_session')),
    since timestamptz NOT NULL
);
-- What wakes is worked on apart from what is paid for.
CREATE INDEX battery_effects_queue_wakers ON battery_effects_queue (effect_id) WHERE kind IN ('customer', 'mapping', 'org', 'subscription');
