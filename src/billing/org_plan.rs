//! Which plan an org has, in which version, by which subscription: the SQL that decides.
//!
//! A running Stripe subscription that gives a plan counts before a local one. Stripe's statuses `trialing` and `active` give it,
//! `past_due` for a grace; paused collection and a cancellation that is still to come change nothing. Everything is decided by the
//! clock of the program, never by that of the database.

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamptz};

/// By what time, and by what rule, plans are told.
#[derive(Clone, Copy, Debug)]
pub struct AsOf {
    /// Now.
    pub now: DateTime<Utc>,
    /// Days for which `past_due` keeps the plan, from the start of the current period.
    pub grace_days: u16,
}

/// SQL: `clock (now, grace)`, which the rest refers to. `$now` and `$grace` are placeholders.
macro_rules! clock {
    ($now:literal, $grace:literal) => {
        concat!(
            "clock AS (SELECT ",
            $now,
            "::timestamptz AS now, make_interval(days => ",
            $grace,
            "::integer) AS grace)"
        )
    };
}
pub(super) use clock;

/// SQL: subscriptions of Stripe as `s`, with the plan that each gives now as `p (plan_id, version)`: that of the first item that
/// maps, by its price or else by its product. The version: the one it was moved to, else the newest that was sold when it got the
/// price, else the first. `$of` narrows `s`, `$gives` says which of them give a plan; it refers to `clock`.
macro_rules! stripe_plans {
    ($of:expr, $gives:expr) => { concat!("(
        SELECT s.*,
               -- Newer shapes have the period on the items.
               coalesce(s.current_period_start, (SELECT min(i.current_period_start) FROM subscription_items i
                   WHERE (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id))) AS period_start,
               coalesce(s.current_period_end, (SELECT min(i.current_period_end) FROM subscription_items i
                   WHERE (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id))) AS period_end
        FROM ", $of, ") s CROSS JOIN clock
     LEFT JOIN LATERAL (
        SELECT f.plan_id, coalesce(
                   (SELECT m.version FROM subscription_moves m
                    WHERE (m.account, m.livemode, m.subscription_id, m.plan_id) = (s.account, s.livemode, s.id, f.plan_id)),
                   (SELECT max(v.version) FROM plan_versions v JOIN subscription_prices b
                        ON (b.account, b.livemode, b.subscription_id, b.price_id) = (s.account, s.livemode, s.id, f.price_id)
                    WHERE v.plan_id = f.plan_id AND v.created_at <= b.since),
                   (SELECT min(v.version) FROM plan_versions v WHERE v.plan_id = f.plan_id)) AS version
        FROM (SELECT coalesce(by_price.plan_id, by_product.plan_id) AS plan_id, i.price_id
              FROM subscription_items i LEFT JOIN plan_stripe_prices by_price ON by_price.price_id = i.price_id
              LEFT JOIN plan_stripe_products by_product ON by_product.product_id = i.product_id
              WHERE (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id)
                AND coalesce(by_price.plan_id, by_product.plan_id) IS NOT NULL
              ORDER BY i.item_number LIMIT 1) f) p
        ON ", $gives) };
}
pub(super) use stripe_plans;

/// SQL: per org, the subscription that counts and the plan that it gives. It refers to `clock`.
macro_rules! with_plan {
    () => { concat!("SELECT o.*, s.* FROM orgs o LEFT JOIN LATERAL (SELECT c.* FROM (
    (SELECT 'stripe'::text AS source, s.id AS subscription_id, s.status AS subscription_status, p.plan_id, p.version AS plan_version,
            CASE WHEN s.status = 'past_due' AND p.plan_id IS NOT NULL THEN s.period_start + clock.grace END AS plan_until,
            CASE WHEN s.status IN ('trialing', 'active', 'past_due') THEN s.period_start END AS period_start,
            CASE WHEN s.status IN ('trialing', 'active', 'past_due') THEN s.period_end END AS period_end,
            s.trial_end, coalesce(s.cancel_at_period_end, false) AS cancel_at_period_end, s.cancel_at, NULL::timestamptz AS changes_at
     FROM ", $crate::billing::org_plan::stripe_plans!("org_refs r JOIN stripe_customer_links l USING (ref)
        JOIN subscriptions s ON (s.account, s.livemode, s.customer_id) = (l.account, l.livemode, l.customer_id)
        WHERE r.org_id = o.org_id",
        "s.status IN ('trialing', 'active')
            OR s.status = 'past_due' AND (s.period_start IS NULL OR s.period_start + clock.grace > clock.now)"), "
     ORDER BY p.plan_id IS NULL,
              array_position(ARRAY['active', 'trialing', 'past_due', 'paused', 'unpaid', 'incomplete', 'canceled', 'incomplete_expired'], s.status),
              s.livemode DESC, s.created DESC, s.id LIMIT 1)
    UNION ALL
    (SELECT 'local', l.subscription_id,
            CASE WHEN l.running OR l.status NOT IN ('trial', 'active') THEN l.status
                 WHEN l.cancel_at_period_end THEN 'cancelled' ELSE 'expired' END,
            CASE WHEN l.running THEN l.plan_id END, CASE WHEN l.running THEN l.version END,
            CASE WHEN l.running THEN l.valid_until END,
            CASE WHEN NOT l.running THEN NULL WHEN l.in_trial THEN l.created_at ELSE l.period_start END,
            CASE WHEN NOT l.running THEN NULL WHEN l.in_trial THEN l.trial_end
                 ELSE least(l.period_start + make_interval(months => l.interval_months), l.valid_until) END,
            l.trial_end, l.cancel_at_period_end, CASE WHEN l.cancel_at_period_end THEN l.valid_until END,
            -- The first paid period begins.
            CASE WHEN l.running AND l.in_trial THEN l.trial_end END
     FROM (SELECT l.*, l.status IN ('trial', 'active') AND l.valid_until > clock.now AS running,
                  coalesce(l.trial_end > clock.now, false) AS in_trial
           FROM local_subscriptions l, clock WHERE l.org_id = o.org_id
           ORDER BY l.status IN ('trial', 'active') DESC, l.created_at DESC, l.subscription_id DESC LIMIT 1) l)
    ) c ORDER BY c.plan_id IS NULL, c.source DESC LIMIT 1) s ON true") };
}
pub(super) use with_plan;

/// Orgs by name (public or external id) and by row id, as [`super::directory`] holds them. Bind now, the days of grace, the names,
/// the row ids. A subscription that grants nothing has no period.
pub(super) struct Contexts;

impl crate::db::prepared::Text for Contexts {
    const SQL: &'static str = concat!(
        "WITH ",
        clock!("?", "?"),
        ", named AS (SELECT r.ref AS name, r.org_id FROM org_refs r WHERE r.ref = ANY (?) UNION ALL SELECT '', unnest(?))
         SELECT n.name, n.org_id, o.public_id, o.external_id, o.time_zone,
                o.plan_id, o.plan_version, o.plan_until, o.changes_at, o.period_start, o.period_end,
                o.source, o.subscription_id, o.subscription_status, o.trial_end, o.cancel_at_period_end, o.cancel_at
         FROM named n JOIN (",
        with_plan!(),
        ") o USING (org_id)"
    );
    type Row = (
        (Text, BigInt, Text, Nullable<Text>, Text),
        (Nullable<Text>, Nullable<Integer>, Nullable<Timestamptz>, Nullable<Timestamptz>),
        (Nullable<Timestamptz>, Nullable<Timestamptz>),
        (
            Nullable<Text>,
            Nullable<Text>,
            Nullable<Text>,
            Nullable<Timestamptz>,
            Nullable<Bool>,
            Nullable<Timestamptz>,
        ),
    );
}
