//! Sets and removes the ways of meters.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};

use super::{MeterWay, NewWay, Way, all, find};
use crate::charging::buckets::{DELTA_WINDOW, window_of};
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
    let ways = all(conn)?;
    let is_like = |way: &MeterWay| way.is_like(new.way, &new.account, at_stripe.as_ref());
    let own = || ways.iter().filter(|way| way.meter_id == found.meter_id);
    if let Some(other) = own().find(|way| way.until.is_none()) {
        if !is_like(other) {
            let detail = format!(
                "the meter goes to Stripe as {} already, and two ways would charge twice: remove that first",
                other.way.name()
            );
            return Err(Error::conflict("meter_has_a_way", detail));
        }
        if new.since.is_some_and(|since| since != other.since) {
            let detail = format!("the meter goes this way since {}: remove the way first", other.since);
            return Err(Error::conflict("meter_has_a_way", detail));
        }
    }
    if let Some(at_stripe) = &at_stripe {
        let others = ways.iter().filter(|way| way.meter_id != found.meter_id && way.account == new.account);
        not_taken(others, at_stripe, new.since.unwrap_or(now))?;
    }
    let charged = charged_otherwise(conn, found.meter_id, new, at_stripe.as_ref())?;
    let others = || own().filter(|way| !is_like(way) && !way.is_discarded);
    let otherwise = others().filter_map(|way| way.until).chain(charged).max();
    // What goes another way goes so to the end of its bucket.
    // Stripe sums whole minutes only, so that of a time that begins within one could not be compared.
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
    let since = new.since.unwrap_or_else(|| otherwise.map_or(minute, |until| until.max(minute)));
    if let Some(until) = otherwise.filter(|until| since < *until) {
        let detail = format!("usage until {until} went to Stripe another way: `since` must not be before");
        return Err(Error::conflict("charged_another_way", detail));
    }
    let ended = own().rfind(|way| is_like(way) && goes_on(way, since));
    let begun = begun(conn, found.meter_id, new, at_stripe.as_ref(), since)?;
    // Its last bucket must not go on over the time of another way: that would be charged twice.
    let first = ended.and_then(|way| way.until).into_iter().chain(begun).min();
    let is_cut = first.is_some_and(|first| otherwise.is_some_and(|until| first < until));
    if is_cut && new.way == Way::Totals {
        let window = at_stripe.as_ref().and_then(|meter| meter.event_time_window).unwrap_or(DELTA_WINDOW);
        return Err(cut_window(window_of(since, window)));
    }
    let (ended, begun) = if is_cut { (None, None) } else { (ended, begun) };
    let since = [Some(since), begun, ended.map(|way| way.since)].into_iter().flatten().min().unwrap_or(since);
    Ok(MeterWay {
        meter: meter.to_owned(),
        meter_id: found.meter_id,
        way_id: ended.and_then(|way| way.way_id),
        way: new.way,
        account: new.account.clone(),
        stripe_meter: at_stripe,
        since,
        until: None,
        is_discarded: false,
        set_by: by.to_owned(),
        set_at: now,
        scanned_until: None,
    })
}

/// A second total in a window would overwrite the first one.
fn cut_window((start, end): (DateTime<Utc>, DateTime<Utc>)) -> Error {
    let detail = format!(
        "the meter went this way and then another one since {start}, and two totals there would overwrite \
         each other: let it go the other way until {end}, then set this one"
    );
    Error::conflict("window_is_cut", detail)
}

/// Whether an ended way goes on when the same one is set again: its last window is not over, where a second
/// bucket would overwrite the total of the first one, or its time is included.
fn goes_on(way: &MeterWay, since: DateTime<Utc>) -> bool {
    let Some(until) = way.until else { return false };
    let window = way.stripe_meter.as_ref().map(|meter| meter.event_time_window.unwrap_or(DELTA_WINDOW));
    since <= until || window.is_some_and(|window| since < last_window_end(until, window))
}

/// The end of the window that an ended way was in last.
fn last_window_end(until: DateTime<Utc>, window: Window) -> DateTime<Utc> {
    window_of(until - TimeDelta::microseconds(1), window).1
}

/// Checks that no other meter goes into a meter at Stripe, or into one with the same name of events. An ended
/// way is in it until the end of its last window: two totals of a window overwrite each other.
fn not_taken<'a>(
    others: impl Iterator<Item = &'a MeterWay>,
    at_stripe: &StripeMeter,
    since: DateTime<Utc>,
) -> Result<(), Error> {
    for other in others {
        let Some(theirs) = &other.stripe_meter else { continue };
        if theirs.id != at_stripe.id && theirs.event_name != at_stripe.event_name {
            continue;
        }
        let window = theirs.event_time_window.unwrap_or(DELTA_WINDOW);
        let is_free = other.until.is_some_and(|until| last_window_end(until, window) <= since);
        if !is_free {
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

/// Until when charges of the meter went another way, or into another meter at Stripe.
fn charged_otherwise(
    conn: &mut PgConnection,
    meter_id: i32,
    new: &NewWay,
    at_stripe: Option<&StripeMeter>,
) -> QueryResult<Option<DateTime<Utc>>> {
    let row: FoundTime = diesel::sql_query(
        "SELECT max(c.period_end) AS at FROM stripe_charges c
         WHERE c.meter_id = $1 AND (c.way, c.account, c.stripe_meter_id) <> ($2, $3, $4)
             AND (c.delivered <> 0 OR c.tried_at IS NOT NULL OR c.way = 'invoice_items')",
    )
    .bind::<Integer, _>(meter_id)
    .bind::<Text, _>(new.way.name())
    .bind::<Text, _>(&new.account)
    .bind::<Text, _>(at_stripe.map_or("", |meter| meter.id.as_str()))
    .get_result(conn)?;
    Ok(row.at)
}

/// The start of the first bucket that went this way before in the window of `since`: it goes on. A second
/// bucket in the window would overwrite its total at Stripe.
fn begun(
    conn: &mut PgConnection,
    meter_id: i32,
    new: &NewWay,
    at_stripe: Option<&StripeMeter>,
    since: DateTime<Utc>,
) -> QueryResult<Option<DateTime<Utc>>> {
    let Some(at_stripe) = at_stripe else { return Ok(None) };
    let window = window_of(since, at_stripe.event_time_window.unwrap_or(DELTA_WINDOW));
    let row: FoundTime = diesel::sql_query(
        "SELECT min(c.period_start) AS at FROM stripe_charges c
         WHERE c.meter_id = $1 AND (c.way, c.account, c.stripe_meter_id) = ($2, $3, $4)
             AND c.period_start >= $6 AND c.period_start < $5
             AND (c.sent_at IS NOT NULL OR c.tried_at IS NOT NULL)",
    )
    .bind::<Integer, _>(meter_id)
    .bind::<Text, _>(new.way.name())
    .bind::<Text, _>(&new.account)
    .bind::<Text, _>(&at_stripe.id)
    .bind::<Timestamptz, _>(since)
    .bind::<Timestamptz, _>(window.0)
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
    .bind::<Text, _>(way.stripe_meter.as_ref().map_or("", |meter| meter.id.as_str()))
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
