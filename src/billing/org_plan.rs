//! Which plan an org has, in which version, by which subscription: the SQL that decides.
//!
//! If several subscriptions give a plan, the one whose plan has the highest rank counts. If the ranks are
//! equal, a Stripe subscription counts before a local one. A Stripe subscription gives its plan while its
//! status is `trialing` or `active`, and for some days of grace while it is `past_due`. Paused collection and
//! a coming cancellation change nothing. An org without such a subscription has the default plan, if there is
//! one. The daemon's clock decides, never the database's.

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamptz};

/// The instant for which plans are decided, and the grace.
#[derive(Clone, Copy, Debug)]
pub struct AsOf {
    pub now: DateTime<Utc>,
    /// Days for which `past_due` keeps the plan, from when the unpaid invoice was due.
    pub grace_days: u16,
}

/// SQL: `clock (now, grace)`, for a WITH clause. The other pieces of SQL in this file read it. `$now` and
/// `$grace` are placeholders.
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

/// SQL: when the invoice that makes a subscription `s` `past_due` was due. That is the oldest unpaid invoice
/// after the last paid one: an unpaid invoice from before that is not the reason. It was due at its due date,
/// or, where Stripe charges automatically, when it was issued. If no such invoice is known, the start of the
/// latest period of any item counts: the last renewal was due then. Stripe's words for `past_due`: "the
/// payment on the latest finalized invoice either failed or wasn't attempted"
/// (<https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses>).
macro_rules! due {
    () => {
        "coalesce(
            (SELECT min(coalesce(i.due_at, i.finalized_at, i.created)) FROM invoices i
             WHERE (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id)
                 AND NOT i.deleted
                 AND i.status IN ('open', 'uncollectible')
                 AND i.amount_remaining > 0
                 AND NOT EXISTS (SELECT FROM invoices paid
                     WHERE (paid.account, paid.livemode, paid.subscription_id)
                             = (s.account, s.livemode, s.id)
                         AND paid.status = 'paid' AND paid.total > 0 AND paid.created > i.created)),
            (SELECT max(i.current_period_start) FROM subscription_items i
             WHERE (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id)),
            s.current_period_start)"
    };
}
pub(super) use due;

/// SQL: Stripe subscriptions as `s`, and as `p (plan_id, version)` the plan that each gives now. It refers to
/// `clock`. `$of` selects the subscriptions `s`; `$gives` is the condition for giving a plan.
///
/// - The plan: that of the first item whose price is mapped to a plan, or else its product.
/// - The version: the one that the subscription was moved to; else the newest one when the subscription got
///   the price; else the first.
/// - `s.period_start` and `s.period_end`: the period of that item; if no item is mapped, of the first item.
///   Items of one subscription may be billed by the month and by the year
///   (<https://docs.stripe.com/billing/subscriptions/mixed-interval>).
/// - `s.grace_end`: from then on `past_due` does not keep the plan.
macro_rules! stripe_plans {
    ($of:expr, $gives:expr) => {
        concat!(
            "(
        SELECT s.*, f.maps_to, f.price_id AS mapped_price,
               coalesce(f.item_start, s.current_period_start) AS period_start,
               coalesce(f.item_end, s.current_period_end) AS period_end,
               CASE WHEN s.status = 'past_due'
                   THEN ",
            $crate::billing::org_plan::due!(),
            " + clock.grace END AS grace_end
        FROM (SELECT s.* FROM ",
            $of,
            ") s CROSS JOIN clock
        LEFT JOIN LATERAL (
            SELECT coalesce(by_price.plan_id, by_product.plan_id) AS maps_to, i.price_id,
                   i.current_period_start AS item_start, i.current_period_end AS item_end
            FROM subscription_items i
            LEFT JOIN plan_stripe_prices by_price ON by_price.price_id = i.price_id
            LEFT JOIN plan_stripe_products by_product ON by_product.product_id = i.product_id
            WHERE (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id)
            ORDER BY coalesce(by_price.plan_id, by_product.plan_id) IS NULL, i.item_number
            LIMIT 1) f ON true
        ) s CROSS JOIN clock
     LEFT JOIN LATERAL (
        SELECT s.maps_to AS plan_id, coalesce(
                   (SELECT m.version FROM subscription_moves m
                    WHERE (m.account, m.livemode, m.subscription_id, m.plan_id)
                        = (s.account, s.livemode, s.id, s.maps_to)),
                   (SELECT max(v.version) FROM plan_versions v
                    JOIN subscription_prices b
                        ON (b.account, b.livemode, b.subscription_id, b.price_id)
                            = (s.account, s.livemode, s.id, s.mapped_price)
                    WHERE v.plan_id = s.maps_to AND v.created_at <= b.since),
                   (SELECT min(v.version) FROM plan_versions v WHERE v.plan_id = s.maps_to)) AS version
        WHERE s.maps_to IS NOT NULL) p
        ON ",
            $gives
        )
    };
}
pub(super) use stripe_plans;

/// SQL: each org with the subscription that counts and its plan, else with the default plan (then
/// `by_default` is true). If several subscriptions give a plan, `paying` lists them all as JSON. It refers to
/// `clock`.
macro_rules! with_plan {
    () => { concat!("SELECT o.*, s.source, s.subscription_id, s.subscription_status, s.plan_until,
        s.period_start, s.period_end, s.trial_end, s.cancel_at_period_end, s.cancel_at, s.changes_at,
        s.pause, s.pause_until, s.paying,
        coalesce(s.plan_id, d.plan_id) AS plan_id, coalesce(s.plan_version, d.version) AS plan_version,
        s.plan_id IS NULL AND d.plan_id IS NOT NULL AS by_default
    FROM orgs o
    LEFT JOIN LATERAL (SELECT c.*,
        CASE WHEN count(c.plan_id) OVER () > 1 THEN (json_agg(json_build_object(
            'id', c.subscription_id, 'source', c.source, 'status', c.subscription_status,
            'plan', c.plan_id)) FILTER (WHERE c.plan_id IS NOT NULL) OVER everyone)::text END AS paying
    FROM (
    (SELECT 'stripe'::text AS source, s.id AS subscription_id, s.status AS subscription_status,
            p.plan_id, p.version AS plan_version,
            CASE WHEN p.plan_id IS NOT NULL THEN s.grace_end END AS plan_until,
            CASE WHEN s.status IN ('trialing', 'active', 'past_due') THEN s.period_start END AS period_start,
            CASE WHEN s.status IN ('trialing', 'active', 'past_due') THEN s.period_end END AS period_end,
            s.trial_end, coalesce(s.cancel_at_period_end, false) AS cancel_at_period_end, s.cancel_at,
            NULL::timestamptz AS changes_at,
            s.pause_collection AS pause, s.pause_resumes_at AS pause_until, s.livemode, s.created
     FROM ", $crate::billing::org_plan::stripe_plans!("org_refs r JOIN stripe_customer_links l USING (ref)
        JOIN subscriptions s
            ON (s.account, s.livemode, s.customer_id) = (l.account, l.livemode, l.customer_id)
        WHERE r.org_id = o.org_id",
        "s.status IN ('trialing', 'active')
            OR s.status = 'past_due' AND (s.grace_end IS NULL OR s.grace_end > clock.now)"), ")
    UNION ALL
    (SELECT 'local', l.subscription_id,
            CASE WHEN l.running AND l.valid_until <= clock.now THEN 'past_due'
                 WHEN l.running OR l.status NOT IN ('trial', 'active') THEN l.status
                 WHEN l.cancel_at_period_end THEN 'cancelled' ELSE 'expired' END,
            CASE WHEN l.running THEN l.plan_id END,
            CASE WHEN l.running THEN l.version END,
            CASE WHEN l.running THEN l.over_at END,
            CASE WHEN NOT l.running THEN NULL WHEN l.in_trial THEN l.created_at ELSE l.period_start END,
            CASE WHEN NOT l.running THEN NULL WHEN l.in_trial THEN l.trial_end
                 ELSE least(l.period_start + make_interval(months => l.interval_months), l.over_at) END,
            l.trial_end, l.cancel_at_period_end, CASE WHEN l.cancel_at_period_end THEN l.valid_until END,
            -- The first paid period begins, or the days of grace.
            CASE WHEN l.running AND l.in_trial THEN l.trial_end
                 WHEN l.running AND l.valid_until > clock.now THEN l.valid_until END,
            NULL, NULL, true, l.created_at
     FROM (SELECT l.*, l.status IN ('trial', 'active') AND l.over_at > clock.now AS running,
                  coalesce(l.trial_end > clock.now, false) AS in_trial
           FROM clock CROSS JOIN (SELECT l.*, ", $crate::billing::org_plan::over_at!(), " AS over_at
                 FROM local_subscriptions l WHERE l.org_id = o.org_id) l
           ORDER BY l.status IN ('trial', 'active') DESC, l.created_at DESC, l.subscription_id DESC
           LIMIT 1) l CROSS JOIN clock)
    ) c LEFT JOIN plans ranked USING (plan_id)
    WINDOW everyone AS (ORDER BY ranked.rank DESC, c.source DESC, c.created DESC, c.subscription_id
                        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
    ORDER BY c.plan_id IS NULL, ranked.rank DESC, c.source DESC,
             array_position(ARRAY['active', 'trialing', 'past_due', 'paused', 'unpaid', 'incomplete',
                                  'canceled', 'incomplete_expired'], c.subscription_status),
             c.livemode DESC, c.created DESC, c.subscription_id LIMIT 1) s ON true
    LEFT JOIN (SELECT plan_id,
                   (SELECT max(v.version) FROM plan_versions v WHERE v.plan_id = n.plan_id) AS version
               FROM plans n WHERE n.is_default) d ON true") };
}
pub(super) use with_plan;

/// SQL: when a local subscription `l` is over if nobody pays: after the days of grace; a cancelled one has
/// none.
macro_rules! over_at {
    () => {
        "l.valid_until + CASE WHEN l.cancel_at_period_end THEN interval '0' \
            ELSE make_interval(days => l.grace_days) END"
    };
}
pub(super) use over_at;

/// SQL: an instant as microseconds since the epoch.
macro_rules! micros {
    ($at:literal) => {
        concat!("(date_part('epoch', ", $at, ") * 1000000)::bigint")
    };
}

/// SQL: the subscriptions that an org has or had, Stripe's and local ones, as one JSON array that
/// [`super::history`] reads. `$org` is the org's row id. `idle`: the subscription is in our own account, in
/// the mode that does not act.
macro_rules! histories {
    ($org:literal) => { concat!("(SELECT json_agg(l.past)::text FROM (
        SELECT json_build_object('stripe', json_build_object(
            'created', ", $crate::billing::org_plan::micros!("s.created"), ",
            'anchor', ", $crate::billing::org_plan::micros!("s.billing_cycle_anchor"), ",
            'started', ", $crate::billing::org_plan::micros!("s.start_date"), ",
            'ended', ", $crate::billing::org_plan::micros!("s.ended_at"), ",
            'until', ", $crate::billing::org_plan::micros!("s.cancel_at"), ",
            'ends_with_period', coalesce(s.cancel_at_period_end, false),
            'idle', l.idle,
            'goes_on', s.status IN ('trialing', 'active', 'past_due'),
            'prices', (SELECT json_agg(json_build_object('rank', pl.rank, 'plan', pl.plan_id,
                    'starts', g.starts, 'ends', g.ends,
                    'item_numbers', g.item_numbers, 'first_seen', g.first_seen, 'last_seen', g.last_seen))
                -- One array for each column, and one look-up of the plan for each price: one JSON object for
                -- each period costs four times as much.
                FROM (SELECT p.price_id, p.product_id, array_agg(p.item_number) AS item_numbers,
                          array_agg(", $crate::billing::org_plan::micros!("p.period_start"), ") AS starts,
                          array_agg(", $crate::billing::org_plan::micros!("p.period_end"), ") AS ends,
                          array_agg(", $crate::billing::org_plan::micros!("p.first_seen"), ") AS first_seen,
                          array_agg(", $crate::billing::org_plan::micros!("p.last_seen"), ") AS last_seen
                      FROM subscription_periods p
                      WHERE (p.account, p.livemode, p.subscription_id) = (s.account, s.livemode, s.id)
                      GROUP BY p.price_id, p.product_id) g
                LEFT JOIN plan_stripe_prices by_price ON by_price.price_id = g.price_id
                LEFT JOIN plan_stripe_products by_product ON by_product.product_id = g.product_id
                LEFT JOIN plans pl ON pl.plan_id = coalesce(by_price.plan_id, by_product.plan_id)))) AS past
        FROM org_refs r JOIN (
            SELECT ref, account, livemode, customer_id, false AS idle FROM stripe_customer_links
            UNION ALL
            SELECT idle_ref, account, livemode, customer_id, true FROM stripe_customer_links
            WHERE idle_ref IS NOT NULL) l USING (ref)
        JOIN subscriptions s
            ON (s.account, s.livemode, s.customer_id) = (l.account, l.livemode, l.customer_id)
        WHERE r.org_id = ", $org, "
        UNION ALL
        SELECT json_build_object('local', json_build_object(
            'created', ", $crate::billing::org_plan::micros!("l.created_at"), ",
            'trial_end', ", $crate::billing::org_plan::micros!("l.trial_end"), ",
            'start', ", $crate::billing::org_plan::micros!("l.period_start"), ",
            'valid_until', ", $crate::billing::org_plan::micros!("l.valid_until"), ",
            'over', (date_part('epoch', ", $crate::billing::org_plan::over_at!(), ") * 1000000)::bigint,
            'ended', ", $crate::billing::org_plan::micros!("l.ended_at"), ",
            'months', l.interval_months, 'rank', pl.rank, 'plan', l.plan_id,
            'earlier', l.earlier_plans))
        FROM local_subscriptions l LEFT JOIN plans pl USING (plan_id) WHERE l.org_id = ", $org, ") l)") };
}
pub(super) use micros;

/// The statement that [`super::directory`] reads orgs with, by name (public or external id) and by row id.
/// It binds now, the days of grace, the names, the row ids. A subscription that gives no plan has no period.
pub(super) struct Contexts;

impl crate::db::prepared::StatementText for Contexts {
    const SQL: &'static str = concat!(
        "WITH ",
        clock!("?", "?"),
        ", named AS (
             SELECT r.ref AS name, r.org_id FROM org_refs r WHERE r.ref = ANY (?)
             UNION ALL
             SELECT '', unnest(?))
         SELECT n.name, n.org_id, o.public_id, o.external_id, o.time_zone, o.currency,
                o.plan_id, o.plan_version, o.plan_until, o.changes_at,
                o.period_start, o.period_end,
                o.source, o.subscription_id, o.subscription_status, o.trial_end,
                o.cancel_at_period_end, o.cancel_at,
                o.pause, o.pause_until, o.paying, o.by_default, ",
        histories!("n.org_id"),
        ", (SELECT d.plan_id FROM plans d WHERE d.is_default),
                CASE WHEN o.erased_at IS NOT NULL THEN 'erased' WHEN o.archived_at IS NOT NULL THEN 'archived'
                    ELSE o.suspension_usage END,
                o.suspension_reason
         FROM named n JOIN (",
        with_plan!(),
        ") o USING (org_id)"
    );
    type Row = (
        (Text, BigInt, Text, Nullable<Text>, Text, Nullable<Text>),
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
        (Nullable<Text>, Nullable<Timestamptz>, Nullable<Text>, Bool),
        (Nullable<Text>, Nullable<Text>),
        (Nullable<Text>, Nullable<Text>),
    );
}
