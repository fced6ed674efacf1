-- Whatever has not been filed would be lost: let it be projected first.
DO $$ BEGIN
    IF EXISTS (SELECT FROM stripe_arrivals) THEN
        RAISE EXCEPTION 'stripe_arrivals holds deliveries that are not in the inbox yet: let the daemon project them first';
    END IF;
END $$;
DROP TABLE stripe_arrivals;
