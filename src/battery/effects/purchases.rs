//! Judges payments without an invoice, and sessions: which pack they name, and how many. Pure.

use rust_decimal::Decimal;
use serde_json::Value;

use super::bought::{of_pack, times};
use super::decide::{Judge, WHOLE};
use super::facts::{Intent, Named, Pack, Session};
use super::model::{Reason, opted_in};
use crate::error::Error;
use crate::money::round_units;

impl Judge<'_> {
    pub(super) fn payment(&mut self) -> Result<(), Error> {
        let facts = self.facts;
        if facts.owned_elsewhere || self.claimed(WHOLE).is_some() || self.dismissed(WHOLE) {
            return Ok(());
        }
        let paid = facts.intent.as_ref().is_some_and(Intent::is_paid);
        if let Some(session) = &facts.session {
            let sells = session.mode.as_deref() == Some("payment");
            return if sells && (session.is_paid() || paid) {
                self.named_by_session(session)
            } else {
                Ok(())
            };
        }
        match &facts.intent {
            Some(intent) if paid && opted_in(&intent.named) => self.named(&intent.named, None),
            _ => Ok(()),
        }
    }

    pub(super) fn named_by_session(&mut self, session: &Session) -> Result<(), Error> {
        self.named(&session.named, Some(session))
    }

    /// The pack that metadata (or the payment link of the session) names.
    fn named(&mut self, named: &Named, session: Option<&Session>) -> Result<(), Error> {
        let text = |key: &str| match named.metadata.get(key) {
            Some(Value::String(text)) => Some(text.trim().to_owned()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let waiting = self.waiting(WHOLE);
        let assigned = waiting.and_then(|waiting| waiting.pack.clone());
        let assigned_quantity = waiting.and_then(|waiting| waiting.quantity);
        let units = text("battery_units");
        let said = units
            .as_deref()
            .and_then(|text| Decimal::from_str_exact(text).ok())
            .filter(|units| *units > Decimal::ZERO && *units == round_units(*units));
        let of_units = said.map(|units| Pack {
            id: None,
            units,
            days: None,
            priority: None,
            prices: None,
            has_price: false,
        });
        let pack = match (assigned, text("battery_pack"), &units) {
            (Some(pack), _, _) => Some(pack),
            (None, Some(_), _) => named.pack.clone(),
            (None, None, Some(_)) => of_units,
            (None, None, None) => named.priced.clone().or_else(|| named.linked.clone()),
        };
        let quantity = text("quantity")
            .map_or(Ok(None), |text| text.parse::<i64>().ok().filter(|n| *n > 0).map(Some).ok_or(()));
        let link = session.and_then(|session| session.payment_link.as_deref());
        let (reason, detail) = match (&pack, text("battery_pack"), units, quantity) {
            (Some(pack), _, _, Ok(said)) => {
                let by_name = named.metadata.get("battery_pack").is_some();
                match assigned_quantity.map_or_else(|| quantity_of(session, pack, said, by_name), Ok) {
                    Ok(quantity) => {
                        let units = times(pack.units, quantity)?;
                        self.outcome.grants.push(of_pack(WHOLE, pack, quantity, units));
                        return Ok(());
                    }
                    Err(detail) => (Reason::UnknownQuantity, detail),
                }
            }
            (Some(_), _, _, Err(())) => {
                (Reason::UnknownPack, "metadata.quantity must be a whole number above zero".to_owned())
            }
            (None, Some(id), _, _) => {
                (Reason::UnknownPack, format!("there is no pack {id}, which metadata.battery_pack names"))
            }
            (None, None, Some(units), _) => (
                Reason::UnknownPack,
                format!(
                    "metadata.battery_units is `{units}`, but must be a number above zero with at most nine \
                        decimal places"
                ),
            ),
            (None, None, None, _) if session.is_some_and(|session| session.ignored) => return Ok(()),
            (None, None, None, _) => (
                Reason::UnknownPack,
                format!(
                    "neither metadata (battery_pack, battery_units, price) nor the payment link ({}) names a \
                        pack: assign one, or dismiss it",
                    link.unwrap_or("none")
                ),
            ),
        };
        self.wait(WHOLE, None, reason, detail);
        Ok(())
    }
}

impl Session {
    /// Whether it is settled, also where a discount left nothing to pay. With manual capture it says `unpaid`
    /// for ever: then the intent tells (<https://docs.stripe.com/payments/place-a-hold-on-a-payment-method>).
    pub(super) fn is_paid(&self) -> bool {
        matches!(self.payment_status.as_deref(), Some("paid" | "no_payment_required"))
    }
}

/// How many packs a session sold. Its events have no line items
/// (<https://docs.stripe.com/checkout/fulfillment>), and the buyer may have changed the quantity. Where
/// prices of the pack are known, the amount before discounts decides, if it is that of a whole number of
/// packs by one of them alone. Where none is known, metadata counts: its quantity, or that it names the pack
/// (`by_name`); of a pack that is found by a price or link it is waited for the price. One without any price
/// is sold one by one.
fn quantity_of(
    session: Option<&Session>,
    pack: &Pack,
    said: Option<i64>,
    by_name: bool,
) -> Result<i64, String> {
    let prices = pack.prices.as_deref().unwrap_or_default();
    let untold = |why: &str| {
        let pack = pack.id.as_deref().unwrap_or_default();
        format!(
            "the session does not tell how many of the pack {pack} were bought: {why}; assign the pack with \
                the quantity"
        )
    };
    let Some(amount) = session.and_then(|session| session.amount_subtotal) else {
        return Ok(said.unwrap_or(1));
    };
    if prices.is_empty() {
        let told = said.or_else(|| (by_name || !pack.has_price).then_some(1));
        return told.ok_or_else(|| untold("none of its prices is known in this currency"));
    }
    let mut fitting: Vec<i64> = prices
        .iter()
        .filter(|price| amount > 0 && amount % **price == 0)
        .map(|price| amount / price)
        .collect();
    fitting.sort_unstable();
    fitting.dedup();
    match (said, fitting.as_slice()) {
        (Some(said), fitting) if fitting.contains(&said) => Ok(said),
        (_, [quantity]) => Ok(*quantity),
        (_, []) => {
            Err(untold(&format!("its amount before discounts, {amount}, is no multiple of the price")))
        }
        (_, _) => Err(untold(&format!("its amount before discounts, {amount}, fits several of the prices"))),
    }
}
