//! Payments without an invoice: which packs a session or a payment intent sold, and how many. Pure.
//!
//! The line items of a session tell what was bought (<https://docs.stripe.com/checkout/fulfillment>). The
//! facts that decide, the first that applies:
//!
//! 1. An operator assigned a pack: it was sold.
//! 2. The metadata names a pack by its id, and no line item buys that pack: it was sold, as often as the
//!    metadata or the amount says. The same where the metadata gives a number of units.
//! 3. The prices of line items buy packs: each sells its pack × its quantity. Line items of other prices are
//!    nothing of ours.
//! 4. Otherwise, and while the line items are not known: the pack of the metadata's price or of the payment
//!    link was sold, as often as the metadata or the amount says. Without one the source waits.
//!
//! A source is decided once: when it has an effect, later facts grant nothing more.

use rust_decimal::Decimal;
use serde_json::Value;

use super::Decider;
use super::offers::{multiply, pack_grant};
use crate::battery::effects::model::facts::{Intent, NamedPacks, Pack, Session, SoldItem};
use crate::battery::effects::model::line_keys::WHOLE;
use crate::battery::effects::model::{LineGrant, WaitReason};
use crate::error::Error;
use crate::money::round_units;

impl Decider<'_> {
    /// Decides a session, or an intent that no invoice owns.
    pub(super) fn payment(&mut self) -> Result<(), Error> {
        let facts = self.facts;
        if facts.owned_elsewhere || !facts.effects.is_empty() || self.is_dismissed(WHOLE) {
            return Ok(());
        }
        let is_captured = facts.intent.as_ref().is_some_and(Intent::is_paid);
        if let Some(session) = &facts.session {
            let sells = session.mode.as_deref() == Some("payment");
            let is_paid = session.is_paid() || is_captured;
            return if sells && is_paid { self.pack_of_session(session) } else { Ok(()) };
        }
        match &facts.intent {
            Some(intent) if is_captured && intent.named.is_opted_in() => self.named_pack(&intent.named, None),
            _ => Ok(()),
        }
    }

    /// Grants the packs that a session sold.
    pub(super) fn pack_of_session(&mut self, session: &Session) -> Result<(), Error> {
        let items = session.items_of_packs();
        let is_named = |id: &str| items.iter().any(|(_, _, pack)| pack.id.as_deref() == Some(id));
        let named = &session.named;
        let counts = match named.text("battery_pack") {
            Some(id) => is_named(&id),
            None => named.text("battery_units").is_none() && !items.is_empty(),
        };
        if counts && self.assigned_pack().is_none() {
            return self.items_of_session(&items);
        }
        self.named_pack(named, Some(session))
    }

    /// Grants what these line items sold. One pack is one grant of the source as a whole; of several packs
    /// each line item makes a grant.
    fn items_of_session(&mut self, items: &[ItemOfPack<'_>]) -> Result<(), Error> {
        let is_one_pack = items.iter().all(|(_, _, pack)| pack.id == items[0].2.id);
        let sold: Vec<&ItemOfPack<'_>> = items.iter().filter(|(key, ..)| !self.is_dismissed(key)).collect();
        let assigned = |key: &str| self.waiting(key).and_then(|waiting| waiting.quantity);
        if let Some((_, item, pack)) = sold.iter().find(|(_, item, _)| item.quantity.is_none())
            && !(is_one_pack && assigned(WHOLE).is_some())
        {
            let (id, pack) = (item.id.as_deref().unwrap_or("?"), pack.id.as_deref().unwrap_or_default());
            let detail = format!(
                "the line item {id} of the session does not tell how many of the pack {pack} were bought: \
                 assign the pack with the quantity"
            );
            self.wait(WHOLE, None, WaitReason::UnknownQuantity, detail);
            return Ok(());
        }
        if is_one_pack {
            let Some((_, _, pack)) = sold.first() else { return Ok(()) };
            let quantity =
                assigned(WHOLE).unwrap_or_else(|| quantity_of(sold.iter().map(|(_, item, _)| *item)));
            let units = multiply(pack.units, quantity)?;
            self.decision.grants.push(pack_grant(WHOLE, pack, quantity, units));
            return Ok(());
        }
        let mut grants = Vec::new();
        for (key, item, pack) in sold {
            let Some(quantity) = assigned(key).or(item.quantity) else { continue };
            let pack = self.waiting(key).and_then(|waiting| waiting.pack.as_ref()).unwrap_or(pack);
            let units = multiply(pack.units, quantity)?;
            grants.push(LineGrant { price: item.price.clone(), ..pack_grant(key, pack, quantity, units) });
        }
        self.decision.grants.extend(grants);
        Ok(())
    }

    /// Grants the named pack as often as it was bought, or lets the source wait.
    fn named_pack(&mut self, named: &NamedPacks, session: Option<&Session>) -> Result<(), Error> {
        if named.is_nothing_of_ours(session) && self.assigned_pack().is_none() {
            return Ok(());
        }
        match self.named_pack_and_quantity(named, session) {
            Ok((pack, quantity)) => {
                let units = multiply(pack.units, quantity)?;
                self.decision.grants.push(pack_grant(WHOLE, &pack, quantity, units));
            }
            Err((reason, detail)) => self.wait(WHOLE, None, reason, detail),
        }
        Ok(())
    }

    fn assigned_pack(&self) -> Option<Pack> {
        self.waiting(WHOLE).and_then(|waiting| waiting.pack.clone())
    }

    /// The pack and the quantity: as an operator assigned them, else as the payment says. An error tells why
    /// the source waits.
    fn named_pack_and_quantity(
        &self,
        named: &NamedPacks,
        session: Option<&Session>,
    ) -> Result<(Pack, i64), (WaitReason, String)> {
        let unknown_pack = |detail: String| (WaitReason::UnknownPack, detail);
        let pack = match self.assigned_pack() {
            Some(pack) => pack,
            None => named.pack(session).map_err(unknown_pack)?,
        };
        let said = named.quantity().map_err(|detail| unknown_pack(detail.to_owned()))?;
        let assigned = self.waiting(WHOLE).and_then(|waiting| waiting.quantity);
        let is_named_by_id = named.metadata.get("battery_pack").is_some();
        let of_items = || session.and_then(|session| session.quantity_of_items(&pack));
        let quantity = assigned
            .or_else(of_items)
            .map_or_else(|| quantity_sold(session, &pack, said, is_named_by_id), Ok);
        quantity.map(|quantity| (pack, quantity)).map_err(|detail| (WaitReason::UnknownQuantity, detail))
    }
}

/// A line item with its key and the pack that its price buys.
type ItemOfPack<'a> = (String, &'a SoldItem, &'a Pack);

impl Session {
    fn is_ignored(&self) -> bool {
        let items = self.items.as_deref().unwrap_or_default();
        self.ignored || !items.is_empty() && items.iter().all(|item| item.ignored)
    }

    /// The line items that buy a pack. A quantity of zero buys nothing.
    fn items_of_packs(&self) -> Vec<ItemOfPack<'_>> {
        let items = self.keyed_items().into_iter();
        let bought = items.filter(|(_, item)| item.quantity.is_none_or(|quantity| quantity > 0));
        bought.filter_map(|(key, item)| Some((key, item, item.pack.as_ref()?))).collect()
    }

    /// How many of this pack the line items sold; `None` if they do not tell.
    fn quantity_of_items(&self, pack: &Pack) -> Option<i64> {
        let items = self.items_of_packs();
        let of_pack = items.iter().filter(|(_, _, own)| own.id.is_some() && own.id == pack.id);
        let items: Vec<&SoldItem> = of_pack.map(|(_, item, _)| *item).collect();
        let is_told = !items.is_empty() && items.iter().all(|item| item.quantity.is_some());
        is_told.then(|| quantity_of(items.into_iter()))
    }
}

fn quantity_of<'a>(items: impl Iterator<Item = &'a SoldItem>) -> i64 {
    items.filter_map(|item| item.quantity).fold(0, i64::saturating_add)
}

impl NamedPacks {
    /// A text or a number of the metadata.
    fn text(&self, key: &str) -> Option<String> {
        match self.metadata.get(key) {
            Some(Value::String(text)) => Some(text.trim().to_owned()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Whether another product of the account sold it: the session or each of its line items is ignored, and
    /// nothing here names a pack.
    fn is_nothing_of_ours(&self, session: Option<&Session>) -> bool {
        let names_nothing = self.text("battery_pack").is_none()
            && self.text("battery_units").is_none()
            && self.by_price.is_none()
            && self.by_link.is_none();
        names_nothing && session.is_some_and(Session::is_ignored)
    }

    /// The pack: by its id, else a nameless pack of so many units, else by price, else by payment link.
    fn pack(&self, session: Option<&Session>) -> Result<Pack, String> {
        if let Some(id) = self.text("battery_pack") {
            let unknown = || format!("there is no pack {id}, which metadata.battery_pack names");
            return self.by_id.clone().ok_or_else(unknown);
        }
        if let Some(text) = self.text("battery_units") {
            let units = Decimal::from_str_exact(&text)
                .ok()
                .filter(|units| *units > Decimal::ZERO && *units == round_units(*units));
            let invalid = || {
                format!(
                    "metadata.battery_units is `{text}`, but must be a number above zero with at most nine \
                     decimal places"
                )
            };
            let pack =
                |units| Pack { id: None, units, days: None, priority: None, prices: None, has_price: false };
            return units.map(pack).ok_or_else(invalid);
        }
        self.by_price.clone().or_else(|| self.by_link.clone()).ok_or_else(|| {
            let link = session.and_then(|session| session.payment_link.as_deref()).unwrap_or("none");
            format!(
                "neither metadata (battery_pack, battery_units, price) nor the payment link ({link}) names a \
                 pack: assign one, or dismiss it"
            )
        })
    }

    /// The quantity that the metadata says; `None`: it says nothing.
    fn quantity(&self) -> Result<Option<i64>, &'static str> {
        let Some(text) = self.text("quantity") else { return Ok(None) };
        let quantity = text.parse::<i64>().ok().filter(|quantity| *quantity > 0);
        quantity.map(Some).ok_or("metadata.quantity must be a whole number above zero")
    }
}

/// How many packs a payment sold whose line items do not tell; an error says why that is unknown.
///
/// The buyer may have changed the quantity. So:
///
/// - Where prices of the pack are known, the amount before discounts decides, if it is the amount of a whole
///   number of packs by one price alone.
/// - Where none is known, the quantity of the metadata counts. Without it: one, if the metadata names the
///   pack by its id, or the pack has no price; otherwise the source waits for the price.
fn quantity_sold(
    session: Option<&Session>,
    pack: &Pack,
    said: Option<i64>,
    is_named_by_id: bool,
) -> Result<i64, String> {
    let prices = pack.prices.as_deref().unwrap_or_default();
    let unknown = |why: &str| {
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
        let quantity = said.or_else(|| (is_named_by_id || !pack.has_price).then_some(1));
        return quantity.ok_or_else(|| unknown("none of its prices is known in this currency"));
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
            Err(unknown(&format!("its amount before discounts, {amount}, is no multiple of the price")))
        }
        (_, _) => Err(unknown(&format!("its amount before discounts, {amount}, fits several of the prices"))),
    }
}
