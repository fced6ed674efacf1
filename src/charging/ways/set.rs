//! Sets and removes the ways of meters.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};

use super::{MeterWay, NewWay, Way, all, find};
use crate::charging::buckets::window_of;
use crate::charging::stripe_meter::{StripeMeter, Window};
use crate::error::Error;
use crate::metering::meters::{self, Aggregation};

/// What a new way would be, after all checks. It is not stored.
///
/// # Errors
/// [`Error::NotFound`] for a meter that does not exist; [`Error::Invalid`] when the way does not fit the
/// meter or Stripe's meter; [`Error::Conflict`] when the meter goes another way already, or usage since
/// then went another way.
pub fn check(
    conn: &mut PgConnection,
    meter: &str,
    new: &NewWay,
    at_stripe: Option<StripeMeter>,
    by: &str,
    now: DateTime<Utc>,
) -> Result<MeterWay, Error> {
    let found = meters::find(conn, meter)?;
    let at_stripe = fitting(new, found.aggregation, at_stripe)?;
    if new.since.is_some_and(|since| since > now) {
        return Err(Error::invalid("since", "must not be in the future"));
    }
    // Stripe sums whole minutes only, so that of a time that begins within one could not be compared.
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
    let mut way = MeterWay {
        meter: meter.to_owned(),
        meter_id: found.meter_id,
        way_id: None,
        way: new.way,
        account: new.account.clone(),
        stripe_meter: at_stripe,
        since: new.since.unwrap_or(minute),
        until: None,
        is_discarded: false,
        set_by: by.to_owned(),
        set_at: now,
        scanned_until: None,
    };
    let (own, others): (Vec<_>, Vec<_>) =
        all(conn)?.into_iter().partition(|other| other.meter_id == way.meter_id);
    if let Some(running) = own.iter().find(|own| own.until.is_none()) {
        not_another(running, &way, new.since)?;
    }
    not_taken(&others, &way)?;
    let otherwise = charged_otherwise(conn, &own, &way)?;
    if let Some(until) = otherwise.filter(|until| way.since < *until) {
        if new.since.is_some() {
            let detail =
                format!("usage until {until} went to Stripe another way: `since` must not be before");
            return Err(Error::conflict("charged_another_way", detail));
        }
        way.since = until;
    }
    go_on(conn, &own, way, otherwise)
}

/// Checks that a running way of the meter is the same as a new one.
fn not_another(running: &MeterWay, way: &MeterWay, since: Option<DateTime<Utc>>) -> Result<(), Error> {
    if !running.is_like(way) {
        let detail = format!(
            "the meter goes to Stripe as {} already, and two ways would charge twice: remove that first",
            running.way.name()
        );
        return Err(Error::conflict("meter_has_a_way", detail));
    }
    if since.is_some_and(|since| since != running.since) {
        let detail = format!("the meter goes this way since {}: remove the way first", running.since);
        return Err(Error::conflict("meter_has_a_way", detail));
    }
    Ok(())
}

/// Lets a way go on that was removed a moment ago, where the new one would send a second bucket in the same
/// window. `otherwise`: until when the meter went another way. The last bucket must not go on over that time,
/// or it would be charged twice.
fn go_on(
    conn: &mut PgConnection,
    own: &[MeterWay],
    way: MeterWay,
    otherwise: Option<DateTime<Utc>>,
) -> Result<MeterWay, Error> {
    let ended = own.iter().rfind(|ended| ended.is_like(&way) && goes_on(ended, way.since));
    let begun = begun(conn, &way)?;
    let first = ended.and_then(|ended| ended.until).into_iter().chain(begun).min();
    if first.is_some_and(|first| otherwise.is_some_and(|until| first < until)) {
        return match (way.way, way.window()) {
            (Way::Totals, Some(window)) => Err(cut_window(window_of(way.since, window))),
            // Deltas add up, so a second bucket does no harm.
            _ => Ok(way),
        };
    }
    let since = ended.map(|ended| ended.since).into_iter().chain(begun).fold(way.since, DateTime::min);
    Ok(MeterWay { way_id: ended.and_then(|ended| ended.way_id), since, ..way })
}

/// A second total in a window would overwrite the first one.
fn cut_window((start, end): (DateTime<Utc>, DateTime<Utc>)) -> Error {
    let detail = format!(
        "the meter went this way and then another one since {start}, and two totals there would overwrite \
         each other: let it go the other way until {end}, then set this one"
    );
    Error::conflict("window_is_cut", detail)
}

/// Whether an ended way goes on when the same one is set again since a time: the time is not after its end,
/// or is in its last window.
fn goes_on(way: &MeterWay, since: DateTime<Utc>) -> bool {
    let Some(until) = way.until else { return false };
    since <= until || way.window().is_some_and(|window| since < last_window_end(until, window))
}

/// The end of the window that an ended way was in last.
fn last_window_end(until: DateTime<Utc>, window: Window) -> DateTime<Utc> {
    window_of(until - TimeDelta::microseconds(1), window).1
}

/// Checks that no other meter goes into a meter at Stripe, or into one with the same name of events. An ended
/// way is in it until the end of its last window: two totals of a window overwrite each other.
fn not_taken(others: &[MeterWay], way: &MeterWay) -> Result<(), Error> {
    let Some(at_stripe) = &way.stripe_meter else { return Ok(()) };
    for other in others.iter().filter(|other| other.account == way.account) {
        let (Some(theirs), Some(window)) = (&other.stripe_meter, other.window()) else { continue };
        let is_same = theirs.id == at_stripe.id || theirs.event_name == at_stripe.event_name;
        let is_free = other.until.is_some_and(|until| last_window_end(until, window) <= way.since);
        if is_same && !is_free {
            let (meter, id, name) = (&other.meter, &theirs.id, &theirs.event_name);
            let detail = format!(
                "usage of the meter {meter} goes into {id} (event name {name}): make another meter at \
                 Stripe, with a name of its own"
            );
            return Err(Error::conflict("stripe_meter_taken", detail));
        }
    }
    Ok(())
}

/// Checks that a way fits the meter and Stripe's meter.
fn fitting(
    new: &NewWay,
    aggregation: Aggregation,
    at_stripe: Option<StripeMeter>,
) -> Result<Option<StripeMeter>, Error> {
    if new.way == Way::InvoiceItems {
        if new.stripe_meter.is_some() {
            return Err(Error::invalid("stripe_meter", "must be left out: invoice items need no meter"));
        }
        if !aggregation.is_additive() && aggregation != Aggregation::Level {
            return Err(Error::invalid("way", "needs a meter that has prices: sum, count or level"));
        }
        return Ok(None);
    }
    if !aggregation.is_additive() {
        let rule = "needs a meter whose parts add up: sum or count. Charge others by `invoice_items`";
        return Err(Error::invalid("way", rule));
    }
    let missing = || Error::invalid("stripe_meter", "must be the id of a meter at Stripe (`mtr_…`)");
    let at_stripe = at_stripe.ok_or_else(missing)?;
    match (new.way, at_stripe.event_time_window) {
        (Way::Totals, None) => {
            let rule = "has no `event_time_window`, so totals would add up: make a meter with the window \
                hour or day at Stripe, or choose `deltas`";
            Err(Error::invalid("stripe_meter", rule))
        }
        (Way::Deltas, Some(_)) => {
            let rule = "has an `event_time_window`, so deltas would overwrite each other: choose `totals`";
            Err(Error::invalid("stripe_meter", rule))
        }
        _ => Ok(Some(at_stripe)),
    }
}

/// A time among charges; `None`: there is no such charge.
#[derive(QueryableByName)]
struct FoundTime {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    at: Option<DateTime<Utc>>,
}

/// Until when the meter went another way, or into another meter at Stripe. What a discarded way sent counts,
/// and the rest of its time does not.
fn charged_otherwise(
    conn: &mut PgConnection,
    own: &[MeterWay],
    way: &MeterWay,
) -> QueryResult<Option<DateTime<Utc>>> {
    let row: FoundTime = diesel::sql_query(
        "SELECT max(c.period_end) AS at FROM stripe_charges c
         WHERE c.meter_id = $1 AND (c.way, c.account, c.stripe_meter_id) <> ($2, $3, $4)
             AND (c.delivered <> 0 OR c.tried_at IS NOT NULL OR c.way = 'invoice_items')",
    )
    .bind::<Integer, _>(way.meter_id)
    .bind::<Text, _>(way.way.name())
    .bind::<Text, _>(&way.account)
    .bind::<Text, _>(way.stripe_meter_id())
    .get_result(conn)?;
    let others = own.iter().filter(|other| !other.is_like(way) && !other.is_discarded);
    Ok(others.filter_map(|other| other.until).chain(row.at).max())
}

/// The start of the first bucket that went this way before in the window in which the way begins.
fn begun(conn: &mut PgConnection, way: &MeterWay) -> QueryResult<Option<DateTime<Utc>>> {
    let Some(window) = way.window() else { return Ok(None) };
    let row: FoundTime = diesel::sql_query(
        "SELECT min(c.period_start) AS at FROM stripe_charges c
         WHERE c.meter_id = $1 AND (c.way, c.account, c.stripe_meter_id) = ($2, $3, $4)
             AND c.period_start >= $5 AND c.period_start < $6
             AND (c.sent_at IS NOT NULL OR c.tried_at IS NOT NULL)",
    )
    .bind::<Integer, _>(way.meter_id)
    .bind::<Text, _>(way.way.name())
    .bind::<Text, _>(&way.account)
    .bind::<Text, _>(way.stripe_meter_id())
    .bind::<Timestamptz, _>(window_of(way.since, window).0)
    .bind::<Timestamptz, _>(way.since)
    .get_result(conn)?;
    Ok(row.at)
}

/// Stores a checked way. Setting the same way again leaves it as it is.
///
/// # Errors
/// When the database fails.
pub fn set(conn: &mut PgConnection, way: &MeterWay) -> Result<MeterWay, Error> {
    let at_stripe = way.stripe_meter.as_ref();
    if let Some(way_id) = way.way_id {
        // All of its usage is looked through again: some came while it was removed.
        diesel::sql_query(
            "UPDATE stripe_meters SET until = NULL, discarded = false, since = $2, set_by = $3, set_at = $4,
                 scanned_until = NULL
             WHERE way_id = $1",
        )
        .bind::<Integer, _>(way_id)
        .bind::<Timestamptz, _>(way.since)
        .bind::<Text, _>(&way.set_by)
        .bind::<Timestamptz, _>(way.set_at)
        .execute(conn)?;
        return find(conn, &way.meter);
    }
    diesel::sql_query(
        "INSERT INTO stripe_meters (meter_id, way, account, stripe_meter_id, event_name, time_window,
             value_key, customer_key, since, set_by, set_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (meter_id) WHERE until IS NULL DO NOTHING",
    )
    .bind::<Integer, _>(way.meter_id)
    .bind::<Text, _>(way.way.name())
    .bind::<Text, _>(&way.account)
    .bind::<Nullable<Text>, _>(at_stripe.map(|meter| &meter.id))
    .bind::<Nullable<Text>, _>(at_stripe.map(|meter| &meter.event_name))
    .bind::<Nullable<Text>, _>(at_stripe.and_then(|meter| meter.event_time_window).map(Window::name))
    .bind::<Nullable<Text>, _>(at_stripe.map(|meter| &meter.value_key))
    .bind::<Nullable<Text>, _>(at_stripe.map(|meter| &meter.customer_key))
    .bind::<Timestamptz, _>(way.since)
    .bind::<Text, _>(&way.set_by)
    .bind::<Timestamptz, _>(way.set_at)
    .execute(conn)?;
    find(conn, &way.meter)
}

/// What becomes of usage that was not sent when its way is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// What was used until now is sent, also when it comes late.
    Send,
    /// The way was a mistake: nothing more is sent.
    Discard,
}

/// Ends the way of a meter. What was sent stays with Stripe.
///
/// # Errors
/// [`Error::NotFound`] if the meter has no way; [`Error::Conflict`] when usage is to be discarded while
/// charges of it are on their way.
pub fn remove(
    conn: &mut PgConnection,
    meter: &str,
    unsent: Unsent,
    now: DateTime<Utc>,
) -> Result<MeterWay, Error> {
    let way = find(conn, meter)?;
    // Stripe sums whole minutes only.
    let minute = TimeDelta::minutes(1);
    let until = now.duration_trunc(minute).map_or(now, |trunc| trunc + minute);
    if unsent == Unsent::Discard {
        discard(conn, &way)?;
    }
    if until > way.since {
        end(conn, &way, until, unsent)?;
    } else {
        // It has not begun, so it has nothing to send.
        diesel::sql_query("DELETE FROM stripe_meters WHERE way_id = $1")
            .bind::<Nullable<Integer>, _>(way.way_id)
            .execute(conn)?;
    }
    Ok(MeterWay { until: Some(until.max(way.since)), ..way })
}

/// Lets a way charge what occurred before `until`, and nothing else.
fn end(conn: &mut PgConnection, way: &MeterWay, until: DateTime<Utc>, unsent: Unsent) -> QueryResult<()> {
    diesel::sql_query("UPDATE stripe_meters SET until = $2, discarded = $3 WHERE way_id = $1")
        .bind::<Nullable<Integer>, _>(way.way_id)
        .bind::<Timestamptz, _>(until)
        .bind::<Bool, _>(unsent == Unsent::Discard)
        .execute(conn)?;
    // Another way may charge the rest of the bucket's time.
    diesel::sql_query(
        "UPDATE stripe_charges SET period_end = $5
         WHERE meter_id = $1 AND (way, account, stripe_meter_id) = ($2, $3, $4) AND way <> 'invoice_items'
             AND period_start < $5 AND period_end > $5",
    )
    .bind::<Integer, _>(way.meter_id)
    .bind::<Text, _>(way.way.name())
    .bind::<Text, _>(&way.account)
    .bind::<Text, _>(way.stripe_meter_id())
    .bind::<Timestamptz, _>(until)
    .execute(conn)
    .map(drop)
}

/// Sends nothing more of a way.
fn discard(conn: &mut PgConnection, way: &MeterWay) -> Result<(), Error> {
    let planned: bool = diesel::select(
        diesel::dsl::sql::<Bool>(
            "EXISTS (SELECT FROM stripe_charges WHERE state = 'planned' AND meter_id = ",
        )
        .bind::<Integer, _>(way.meter_id)
        .sql(")"),
    )
    .get_result(conn)?;
    if planned {
        let detail = "charges of this meter are on their way: try again when they are sent";
        return Err(Error::conflict("charges_planned", detail));
    }
    // Buckets wait for the meter to go the same way again. Lines wait for what they waited for.
    diesel::sql_query(
        "UPDATE stripe_charges SET reason = 'way_removed'
         WHERE state = 'waiting' AND meter_id = $1 AND way <> 'invoice_items'",
    )
    .bind::<Integer, _>(way.meter_id)
    .execute(conn)?;
    Ok(())
}
