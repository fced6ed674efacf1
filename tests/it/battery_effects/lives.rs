//! Random lives of one subscription and its invoices against a reckoning of its own: who holds how many
//! units. The rule is one line: of what an invoice granted, the share is held that was settled and did not
//! come back, less what was unused of it.
//!
//! `cargo test --test it lives -- --ignored` runs many more of them.

use futures_util::future::join_all;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::build::{DAY, Run, start};
use super::{differences, furnish, unsound};
use crate::support::{Daemon, Database};

/// A generator that gives the same numbers each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A whole number within `[from, until)`.
    fn within(&mut self, from: i64, until: i64) -> i64 {
        from + i64::try_from(self.next()).expect("small") % (until - from).max(1)
    }

    fn one_in(&mut self, n: i64) -> bool {
        self.within(0, n) == 0
    }
}

/// What of an invoice grants or takes, and the money.
struct Invoice {
    /// Days of the month that it pays for.
    days: (i64, i64),
    /// Units that it grants, each line apart.
    grants: Vec<Decimal>,
    /// Units of unused packs that it takes from the grant that holds them.
    unused: Decimal,
    settled: i64,
    returned: i64,
    undone: bool,
}

/// A life: what Stripe tells of it, and what is held in the end.
struct Life {
    events: Vec<Value>,
    held: Decimal,
}

struct Teller<'a> {
    run: &'a Run,
    dice: &'a mut Dice,
    events: Vec<Value>,
}

impl Teller<'_> {
    fn line(
        &self,
        (invoice, n): (&str, usize),
        price: &str,
        amount: i64,
        quantity: i64,
        days: (i64, i64),
        part: bool,
    ) -> Value {
        json!({ "id": format!("il_{n}_{invoice}"), "object": "line_item", "amount": amount, "currency": "usd", "quantity": quantity, "description": "A line",
            "metadata": {}, "discount_amounts": [], "taxes": [], "period": { "start": start() + days.0 * DAY, "end": start() + days.1 * DAY },
            "pricing": { "type": "price_details", "price_details": { "price": price, "product": format!("prod_{price}") } },
            "parent": { "type": "subscription_item_details", "subscription_item_details": {
                "subscription": self.run.id("sub"), "subscription_item": format!("si_{price}"), "proration": part } } })
    }

    /// An invoice of these lines, how it was settled, and what came back.
    fn invoice(&mut self, name: &str, day: i64, lines: Vec<Value>, may_be_undone: bool) -> (i64, i64, bool) {
        let asked: i64 = lines.iter().map(|line| line["amount"].as_i64().expect("an amount")).sum();
        let coupon = if asked > 0 && self.dice.one_in(4) { self.dice.within(0, asked + 1) } else { 0 };
        let total = asked - coupon;
        let emptied = may_be_undone && total > 0 && self.dice.one_in(8);
        let before = match (emptied, total > 0 && self.dice.one_in(4)) {
            (true, _) => total,
            (false, true) => self.dice.within(0, total),
            (false, false) => 0,
        };
        let settled = (total - before).max(0);
        let by_card = if self.dice.one_in(3) { self.dice.within(0, settled + 1) } else { settled };
        let voided = may_be_undone && !emptied && self.dice.one_in(8);
        let mut object = self.run.invoice(name, "subscription_update", "paid", day, &[]);
        for (field, value) in [
            ("total", total),
            ("subtotal", asked),
            ("amount_due", by_card),
            ("amount_paid", by_card),
            ("pre_payment_credit_notes_amount", before),
        ] {
            object[field] = value.into();
        }
        object["lines"]["data"] = lines.into();
        let at = day * DAY + 10;
        if before > 0 && self.dice.one_in(2) {
            self.note(
                name,
                "before",
                before,
                &json!({ "type": "pre_payment", "pre_payment_amount": before, "post_payment_amount": 0 }),
            );
        }
        if voided {
            let mut void = object.clone();
            void["status"] = "void".into();
            self.event(&format!("{name}_void"), "invoice.voided", at + 500, void);
        }
        let mut open = object.clone();
        open["status"] = "open".into();
        self.event(&format!("{name}_open"), "invoice.finalized", at, open);
        self.event(&format!("{name}_paid"), "invoice.paid", at + 1, object);
        let returned = self.returns(name, at, by_card, settled - by_card);
        (settled, returned.min(settled), voided || emptied)
    }

    /// Refunds, credit notes and disputes; what they come to.
    fn returns(&mut self, name: &str, at: i64, mut by_card: i64, mut otherwise: i64) -> i64 {
        let mut returned = 0;
        self.events.push(self.run.invoice_payment(name, by_card));
        for n in 0..self.dice.within(0, 3) {
            let amount = self.dice.within(0, by_card + 1);
            let status = ["succeeded", "pending", "failed", "canceled"]
                [usize::try_from(self.dice.within(0, 4)).expect("small")];
            let refund = format!("{name}{n}");
            self.events.push(self.run.refund(&refund, name, amount, "pending", 0));
            self.events.push(self.run.refund(&refund, name, amount, status, 1));
            let live = matches!(status, "succeeded" | "pending");
            let credited = if otherwise > 0 { self.dice.within(0, otherwise + 1) } else { 0 };
            if self.dice.one_in(2) {
                let outside = self.dice.within(0, credited + 1);
                self.note(name, &refund, amount + credited, &json!({ "type": "post_payment", "pre_payment_amount": 0, "post_payment_amount": amount + credited,
                    "out_of_band_amount": outside, "refunds": [{ "refund": self.run.id(&format!("re_{refund}")), "amount_refunded": amount }] }));
                otherwise -= credited;
                returned += credited;
            }
            if live {
                by_card -= amount;
                returned += amount;
            }
        }
        if by_card > 0 && self.dice.one_in(4) {
            let (status, counts) = [
                ("won", false),
                ("lost", true),
                ("warning_closed", false),
                ("appeal_under_review", true),
                ("needs_response", true),
            ][usize::try_from(self.dice.within(0, 5)).expect("small")];
            let moved = match status {
                "won" => {
                    json!([{ "amount": -by_card, "currency": "usd", "net": -by_card }, { "amount": by_card, "currency": "usd", "net": by_card }])
                }
                "warning_closed" => json!([]),
                _ => json!([{ "amount": -by_card, "currency": "usd", "net": -by_card }]),
            };
            let object = json!({ "id": self.run.id(&format!("du_{name}")), "object": "dispute", "created": start() + at, "amount": by_card, "currency": "usd",
                "status": status, "reason": "fraudulent", "charge": self.run.id(&format!("ch_{name}")), "payment_intent": self.run.id(&format!("pi_{name}")),
                "balance_transactions": moved, "metadata": {}, "livemode": false });
            self.event(&format!("du_{name}"), "charge.dispute.updated", at + 90, object);
            returned += if counts { by_card } else { 0 };
        }
        returned
    }

    fn note(&mut self, of: &str, name: &str, amount: i64, more: &Value) {
        let mut note = self.run.note(of, amount, more);
        note["id"] = self.run.id(&format!("evt_cn_{of}_{name}")).into();
        note["data"]["object"]["id"] = self.run.id(&format!("cn_{of}_{name}")).into();
        self.events.push(note);
    }

    fn event(&mut self, name: &str, kind: &str, second: i64, object: Value) {
        let event = self.run.event(name, kind, second, object);
        self.events.push(event);
    }
}

/// 1000 units with each month of the plan and of each seat, 500 with each month of a pack.
fn life(run: &Run, dice: &mut Dice) -> Life {
    let mut teller = Teller { run, dice, events: vec![run.customer(), run.price("price_over", "metered")] };
    let mut invoices = Vec::new();
    let (seats, mut packs) = (teller.dice.within(1, 4), teller.dice.within(0, 3));
    let changes = if packs > 0 { teller.dice.within(0, 3) } else { 0 };
    // The month itself: overage of the one before, seats (in two tiers or one line), packs.
    let (mut lines, id) = (Vec::new(), run.id("in_a"));
    if teller.dice.one_in(2) {
        lines.push(teller.line((&id, 9), "price_over", teller.dice_amount(), 700, (-30, 0), false));
    }
    let tiers = if seats > 1 && teller.dice.one_in(2) { vec![1, seats - 1] } else { vec![seats] };
    for (n, quantity) in tiers.into_iter().enumerate() {
        lines.push(teller.line((&id, n), "price_basic", 2000 * quantity, quantity, (0, 30), false));
    }
    if packs > 0 {
        lines.push(teller.line((&id, 5), "price_addon", 1000 * packs, packs, (0, 30), false));
    }
    let (settled, returned, undone) = teller.invoice("a", 0, lines, changes == 0);
    let mut grants = vec![Decimal::from(1000 * seats)];
    if packs > 0 {
        grants.push(Decimal::from(500 * packs));
    }
    invoices.push(Invoice { days: (0, 30), grants, unused: Decimal::ZERO, settled, returned, undone });
    // Changes of the packs, each some days after the other.
    let mut day = 0;
    for n in 0..changes {
        day += teller.dice.within(1, 10);
        let (name, more) = (format!("c{n}"), teller.dice.within(0, 4));
        let (left, id) = (30 - day, run.id(&format!("in_{name}")));
        let (unused, remaining) = (1000 * packs * left / 30, 1000 * more * left / 30);
        let mut lines = vec![teller.line((&id, 0), "price_addon", -unused, packs, (day, 30), true)];
        if more > 0 {
            lines.push(teller.line((&id, 1), "price_addon", remaining, more, (day, 30), true));
        }
        let last = n + 1 == changes || more == 0;
        let (settled, returned, undone) = teller.invoice(&name, day, lines, last);
        let share =
            |packs: i64| (Decimal::from(500 * packs) * Decimal::from(left) / Decimal::from(30)).round_dp(9);
        let grants = if remaining > unused { vec![share(more)] } else { Vec::new() };
        invoices.push(Invoice { days: (day, 30), grants, unused: share(packs), settled, returned, undone });
        packs = more;
        if packs == 0 {
            break;
        }
    }
    Life { events: teller.events, held: held(&invoices) }
}

impl Teller<'_> {
    fn dice_amount(&self) -> i64 {
        777
    }
}

/// Units held: of each grant what was settled and did not come back, less what is unused of it: of packs
/// alone, of the latest grant.
fn held(invoices: &[Invoice]) -> Decimal {
    let mut sum = Decimal::ZERO;
    for (n, invoice) in invoices.iter().enumerate().filter(|(_, invoice)| !invoice.undone) {
        for (line, units) in invoice.grants.iter().enumerate() {
            let is_pack = n > 0 || line == 1;
            // Whoever changed the packs after it and before the next grant takes from it.
            let is_holder = |change: usize| {
                let later =
                    (n + 1..change).rfind(|at| !invoices[*at].undone && !invoices[*at].grants.is_empty());
                is_pack
                    && later.is_none()
                    && !invoices[change].undone
                    && invoices[change].days.0 >= invoice.days.0
            };
            let unused: Decimal = (n + 1..invoices.len())
                .filter(|change| is_holder(*change))
                .map(|change| invoices[change].unused)
                .sum();
            let back = if invoice.settled > 0 {
                (*units * Decimal::from(invoice.returned) / Decimal::from(invoice.settled)).round_dp(9)
            } else {
                Decimal::ZERO
            };
            sum += (*units - back - unused).max(Decimal::ZERO);
        }
    }
    sum
}

async fn lives(seed: u64, count: usize) {
    let database = Database::new();
    let names: Vec<String> = (0..count).map(|n| format!("l{n}")).collect();
    furnish(&database, &names);
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let mut dice = Dice(seed);
    let mut expected = Vec::new();
    let mut deliveries: Vec<(usize, Value)> = Vec::new();
    for name in &names {
        let life = life(&Run { tag: name.clone() }, &mut dice);
        let twice: Vec<&Value> = life.events.iter().chain(&life.events).collect();
        deliveries.extend(
            twice.into_iter().map(|event| (usize::try_from(dice.next()).expect("small"), event.clone())),
        );
        expected.push(life.held);
    }
    // In random order, over all lives.
    deliveries.sort_by_key(|(place, _)| *place);
    for (n, chunk) in deliveries.chunks(48).enumerate() {
        join_all(chunk.iter().map(|(place, event)| daemons[place % 2].deliver(event))).await;
        if n % 4 == 0 {
            daemons[0].projected().await;
        }
    }
    daemons[0].projected().await;
    for (name, expected) in names.iter().zip(expected) {
        let balance: Decimal = super::battery(&database, name).0.parse().unwrap_or_default();
        let apart = (balance - expected).abs();
        assert!(
            apart <= Decimal::new(5, 9),
            "seed {seed}, life {name}: {balance} are held, {expected} should be"
        );
    }
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()), "seed {seed}");
    assert_eq!(database.run(&["battery", "waiting"]), "", "seed {seed}");
}

#[tokio::test]
async fn whatever_a_subscription_lives_through_its_units_are_those_that_were_paid_for() {
    lives(20_261_127, 60).await;
}

/// Many more of the same.
#[tokio::test]
#[ignore = "takes minutes"]
async fn lives_of_many_seeds() {
    for seed in 1..=20 {
        lives(seed, 250).await;
    }
}
