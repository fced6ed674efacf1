//! Sends priced lines as invoice items (<https://docs.stripe.com/api/invoiceitems/create>).

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Jsonb, Nullable, Numeric, SmallInt, Text, Timestamptz};
use futures_util::future::join_all;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;

use super::Turn;
use super::charges::{self, ChargeKey};
use super::facts::CustomerTimes;
use super::freeze::tell_late;
use super::last_usage::NO_NEXT_INVOICE;
use super::send::fail;
use crate::backoff;
use crate::error::Error;
use crate::invoicing::period_usage::UnchargedPrice;
use crate::money::decimal_places;
use crate::realm::Realm;
use crate::stripe::client::{Call, CallError, StripeClient};
use crate::stripe::sync::accounts::{self, Held};

type At = DateTime<Utc>;

/// Lines of one turn.
const A_TURN: i64 = 200;
/// Calls at the same time, each for another customer.
const CONCURRENT: usize = 8;
/// Decimal places that Stripe's `unit_amount_decimal` has.
const PRICE_PLACES: u32 = 12;
/// The metadata of an item that names its line.
const MARK: &str = "coulomb_charge";

#[derive(QueryableByName)]
struct DueLine {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    charge_id: String,
    #[diesel(sql_type = Integer)]
    sequence: i32,
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Text)]
    meter: String,
    #[diesel(sql_type = Text)]
    unit: String,
    #[diesel(sql_type = Integer)]
    rate_card_id: i32,
    #[diesel(sql_type = Integer)]
    rate_place: i32,
    #[diesel(sql_type = Nullable<Jsonb>)]
    rate: Option<serde_json::Value>,
    #[diesel(sql_type = Text)]
    customer_id: String,
    #[diesel(sql_type = Timestamptz)]
    period_start: At,
    #[diesel(sql_type = Timestamptz)]
    period_end: At,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = Numeric)]
    quantity: Decimal,
    #[diesel(sql_type = Numeric)]
    cost: Decimal,
    #[diesel(sql_type = BigInt)]
    amount: i64,
    #[diesel(sql_type = Nullable<Text>)]
    invoice_id: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    tried_at: Option<At>,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    amount: Option<i64>,
}

#[derive(Deserialize)]
struct ItemPage {
    data: Vec<Item>,
    has_more: bool,
}

impl Turn<'_> {
    /// Sends lines that are due. Returns whether there may be more.
    pub(super) fn send_items(&mut self) -> Result<bool, Error> {
        let due = due(self.conn, self.realm, self.now())?;
        let is_full = due.len() as i64 == A_TURN;
        let mut queues: BTreeMap<String, VecDeque<DueLine>> = BTreeMap::new();
        for line in due {
            queues.entry(line.customer_id.clone()).or_default().push_back(line);
        }
        while !queues.is_empty() && !(self.is_stopped)() {
            let round: Vec<DueLine> =
                queues.values_mut().take(CONCURRENT).filter_map(VecDeque::pop_front).collect();
            queues.retain(|_, queue| !queue.is_empty());
            let now = self.now();
            let mut tried = Vec::new();
            for line in round {
                // The try is committed before the call: after a crash the item is looked for.
                if charges::note_try(self.conn, &line.key(), now)? {
                    tried.push(line);
                }
            }
            let (client, realm) = (self.sync.client().clone(), self.realm.clone());
            let answers = self.wait(join_all(tried.iter().map(|line| send(&client, &realm, line))));
            for (line, answer) in tried.iter().zip(answers) {
                if !self.note_item(line, answer)? {
                    return Ok(false);
                }
            }
        }
        Ok(is_full)
    }

    /// Stores what became of a line. False: the account's calls fail.
    fn note_item(&mut self, line: &DueLine, answer: Result<Item, CallError>) -> Result<bool, Error> {
        let (now, key, realm) = (self.now(), line.key(), self.realm);
        let error = match answer {
            Ok(item) => {
                note_taken(self.conn, &key, &item, now)?;
                accounts::note_error(self.conn, Held::Charging, realm, None, now)?;
                return Ok(true);
            }
            Err(error) => error,
        };
        if error.is_of_key() || error.is_temporary() {
            charges::postpone(
                self.conn,
                &key,
                now + backoff::wait(line.attempts.min(4)),
                &error.to_string(),
            )?;
            if error.refusal().is_some_and(|refusal| refusal.status >= 500) {
                // Stripe gives this answer again under the same key, whatever became of the request.
                next_key(self.conn, &key)?;
            }
            let fails = error.is_of_key();
            if fails {
                accounts::note_error(self.conn, Held::Charging, realm, Some(&error.to_string()), now)?;
            }
            return Ok(!fails);
        }
        if let Some(invoice) = line.invoice_id.as_deref().filter(|_| is_too_late(&error)) {
            let times = CustomerTimes::read(self.conn, realm, &line.customer_id, None)?;
            let waits = if times.covers(now) { None } else { Some(NO_NEXT_INVOICE) };
            self.conn.transaction(|conn| {
                detach(conn, &key, waits, now)?;
                tell_late(conn, realm, invoice, line.amount, now)
            })?;
            return Ok(true);
        }
        let code = error.refusal().and_then(|refusal| refusal.code.clone());
        let code = code.unwrap_or_else(|| "refused".to_owned());
        self.conn.transaction(|conn| fail(conn, &key, &code, &error.to_string(), now))?;
        Ok(true)
    }
}

/// Whether the invoice took no items any more.
fn is_too_late(error: &CallError) -> bool {
    error.refusal().is_some_and(|refusal| {
        refusal.status == 400
            && (refusal.code.as_deref() == Some("invoice_not_editable")
                || refusal.param.as_deref() == Some("invoice"))
    })
}

/// Sends a line. One that may have been sent before is looked for first.
async fn send(client: &StripeClient, realm: &Realm, line: &DueLine) -> Result<Item, CallError> {
    if let Some(tried_at) = line.tried_at
        && let Some(item) = look_for(client, realm, line, tried_at).await?
    {
        return Ok(item);
    }
    let form = line.form();
    let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let key = format!("coulomb-{}-{}", line.charge_id, line.sequence);
    client.send(&Call::post("/v1/invoiceitems", &form, &key).of(&realm.account)).await?.read()
}

/// The item of a line among those of its customer, by its mark.
async fn look_for(
    client: &StripeClient,
    realm: &Realm,
    line: &DueLine,
    tried_at: At,
) -> Result<Option<Item>, CallError> {
    // The clocks of Stripe and of this machine differ.
    let since = (tried_at - TimeDelta::hours(1)).timestamp().to_string();
    let mut after = String::new();
    loop {
        let mut query =
            vec![("customer", line.customer_id.as_str()), ("created[gte]", &since), ("limit", "100")];
        if !after.is_empty() {
            query.push(("starting_after", &after));
        }
        let call = Call::get("/v1/invoiceitems", &query).of(&realm.account);
        let page: ItemPage = client.send(&call).await?.read()?;
        let last = page.data.last().map(|item| item.id.clone());
        let mut items = page.data.into_iter();
        if let Some(item) = items.find(|item| item.metadata.get(MARK) == Some(&line.charge_id)) {
            return Ok(Some(item));
        }
        match last.filter(|_| page.has_more) {
            Some(last) => after = last,
            None => return Ok(None),
        }
    }
}

impl DueLine {
    fn key(&self) -> ChargeKey {
        ChargeKey { org_id: self.org_id, charge_id: self.charge_id.clone(), sequence: self.sequence }
    }

    /// The parameters of its item.
    fn form(&self) -> Vec<(&'static str, String)> {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let mut form = vec![
            ("customer", self.customer_id.clone()),
            ("description", format!("{}: {}{unit}", self.meter, self.quantity.normalize())),
            ("period[start]", self.period_start.timestamp().to_string()),
            ("period[end]", self.period_end.timestamp().to_string()),
            ("metadata[coulomb_charge]", self.charge_id.clone()),
            ("metadata[coulomb_meter]", self.meter.clone()),
            ("currency", self.currency.clone()),
        ];
        if let Some(invoice) = &self.invoice_id {
            form.push(("invoice", invoice.clone()));
        }
        match exact_price(self) {
            Some((quantity, price)) => {
                form.push(("quantity", quantity.to_string()));
                form.push(("unit_amount_decimal", price.to_string()));
            }
            None => form.push(("amount", self.amount.to_string())),
        }
        form
    }
}

/// Quantity and price in minor units, where the quantity is whole and both multiply to the amount exactly:
/// Stripe's own product would be another amount else.
fn exact_price(line: &DueLine) -> Option<(u64, Decimal)> {
    let usage = UnchargedPrice {
        meter_id: line.meter_id,
        rate_card_id: line.rate_card_id,
        rate_place: line.rate_place,
        meter: line.meter.clone(),
        unit: line.unit.clone(),
        rate: line.rate.clone(),
        quantity: line.quantity,
        cost: line.cost,
    };
    let (quantity, price, base) = usage.price();
    let minor = Decimal::from(10_u64.checked_pow(u32::from(decimal_places(&line.currency)))?);
    let price = price.checked_mul(minor)?.checked_div(base)?.normalize();
    let whole = quantity.normalize();
    if whole.scale() != 0 || whole <= Decimal::ZERO || price.scale() > PRICE_PLACES {
        return None;
    }
    let amount = whole.checked_mul(price)?.normalize();
    (amount == Decimal::from(line.amount)).then_some((whole.to_u64()?, price))
}

fn note_taken(conn: &mut PgConnection, key: &ChargeKey, item: &Item, now: At) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges
         SET state = CASE WHEN amount = coalesce($5, amount) THEN 'sent' ELSE 'failed' END,
             reason = CASE WHEN amount = coalesce($5, amount) THEN NULL ELSE 'amount_differs' END,
             detail = NULL, item_id = $3, sent_at = $4, delivered = quantity
         WHERE org_id = $1 AND charge_id = $2 AND state = 'planned'",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Text, _>(&item.id)
    .bind::<Timestamptz, _>(now)
    .bind::<Nullable<BigInt>, _>(item.amount)
    .execute(conn)
    .map(drop)
}

/// The next attempt has a key of its own. The item is looked for before it.
fn next_key(conn: &mut PgConnection, key: &ChargeKey) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET sequence = sequence + 1
         WHERE org_id = $1 AND charge_id = $2 AND sequence = $3 AND state = 'planned'",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Integer, _>(key.sequence)
    .execute(conn)
    .map(drop)
}

/// The line is for the customer's next invoice, because its own is final.
fn detach(conn: &mut PgConnection, key: &ChargeKey, waits: Option<&'static str>, now: At) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET invoice_id = NULL, sequence = sequence + 1, next_attempt_at = $4,
             state = CASE WHEN $5 IS NULL THEN 'planned' ELSE 'waiting' END, reason = coalesce($5, 'too_late')
         WHERE org_id = $1 AND charge_id = $2 AND sequence = $3 AND state = 'planned'",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Integer, _>(key.sequence)
    .bind::<Timestamptz, _>(now)
    .bind::<Nullable<Text>, _>(waits)
    .execute(conn)
    .map(drop)
}

fn due(conn: &mut PgConnection, realm: &Realm, now: At) -> QueryResult<Vec<DueLine>> {
    diesel::sql_query(
        "SELECT c.org_id, c.charge_id, c.sequence, c.meter_id, m.key AS meter, m.unit, c.rate_card_id,
             c.rate_place, (SELECT d.rates -> (c.rate_place - 1) FROM rate_cards d
                 WHERE d.rate_card_id = c.rate_card_id) AS rate,
             c.customer_id, c.period_start, c.period_end, c.currency, c.quantity, c.cost, c.amount,
             c.invoice_id, c.tried_at, c.attempts
         FROM stripe_charges c JOIN meters m USING (meter_id)
         WHERE c.state = 'planned' AND c.way = 'invoice_items' AND (c.account, c.livemode) = ($1, $2)
             AND c.next_attempt_at <= $3 AND c.customer_id IS NOT NULL
         ORDER BY c.planned_at, c.org_id, c.charge_id LIMIT $4",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(A_TURN)
    .load(conn)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(quantity: &str, cost: &str, amount: i64, unit_cost: Option<&str>) -> DueLine {
        let number = |text: &str| text.parse().expect("a number");
        let at = DateTime::UNIX_EPOCH;
        DueLine {
            org_id: 1,
            charge_id: "chg_1".to_owned(),
            sequence: 1,
            meter_id: 1,
            meter: "tokens".to_owned(),
            unit: String::new(),
            rate_card_id: 1,
            rate_place: 1,
            rate: unit_cost.map(|cost| json!({ "unit_cost": cost })),
            customer_id: "cus_1".to_owned(),
            period_start: at,
            period_end: at + TimeDelta::days(1),
            currency: "usd".to_owned(),
            quantity: number(quantity),
            cost: number(cost),
            amount,
            invoice_id: None,
            tried_at: None,
            attempts: 0,
        }
    }

    #[test]
    fn a_price_is_named_only_where_it_gives_the_amount() {
        for (line, expected) in [
            // 1000 × 0.25 US dollars.
            (line("1000", "250", 25_000, Some("0.25")), Some((1000, "25"))),
            // 4 000 000 tokens at 0.0000025 dollars: 0.00025 cents each, 1000 cents in all.
            (line("4000000", "10", 1000, Some("0.0000025")), Some((4_000_000, "0.00025"))),
            // 3 × 0.333: 99.9 cents are no whole number.
            (line("3", "0.999", 100, Some("0.333")), None),
            // Half a unit, and usage that was taken back.
            (line("0.5", "1", 100, Some("2")), None),
            (line("-2", "-4", -400, Some("2")), None),
            // Tiers: the cost is no multiple of one price.
            (line("3", "1", 100, None), None),
            (line("4", "1", 100, None), Some((4, "25"))),
        ] {
            let price = exact_price(&line).map(|(quantity, price)| (quantity, price.to_string()));
            assert_eq!(
                price,
                expected.map(|(quantity, price)| (quantity, price.to_owned())),
                "{}",
                line.cost
            );
        }
    }
}
