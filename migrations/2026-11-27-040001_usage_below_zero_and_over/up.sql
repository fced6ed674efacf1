-- Usage is 0 or more, unless its meter says otherwise.
ALTER TABLE meter_versions ADD COLUMN allows_negative boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN meter_versions.allows_negative IS 'a key that may set prices may report values below zero';

-- What was used is recorded, above the reservation and above the limit too. A settlement that is repeated is
-- told the same again.
ALTER TABLE quota_reservations
    ADD COLUMN overage numeric CHECK (overage >= 0 AND overage < 'Infinity'),
    ADD COLUMN debt numeric CHECK (debt >= 0 AND debt < 'Infinity');
COMMENT ON COLUMN quota_reservations.overage
    IS 'of what was settled, how much went over the limit that it went over the most';
COMMENT ON COLUMN quota_reservations.debt
    IS 'of the battery units that were settled, how many the battery did not hold';

-- Reservations that lapsed and that nobody has settled: a metric counts them.
CREATE INDEX quota_reservations_lapsed ON quota_reservations (expires_at) WHERE state = 'expired';
