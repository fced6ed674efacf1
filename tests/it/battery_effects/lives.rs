//! Random lives of one subscription and its invoices, compared with a separate calculation of how many units
//! each org has. The rule is one line: of what an invoice granted, the org keeps the share that was settled
//! and did not come back, less the unused part of it.
//!
//! `cargo test --test it lives -- --ignored` runs many more of them.

use futures_util::future::join_all;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::build::{DAY, Run, start};
use super::{differences, furnish, unsound};
use crate::support::{Daemon, Database};

/// Pseudo-random numbers from a seed.
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

/// What a line buys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Good {
    Basic,
    Pro,
    Pack,
}

impl Good {
    fn price(self) -> &'static str {
        match self {
            Self::Basic => "price_basic",
            Self::Pro => "price_pro",
            Self::Pack => "price_addon",
        }
    }

    /// The price of a month of one, in minor units.
    fn cost(self) -> i64 {
        match self {
            Self::Basic => 2000,
            Self::Pro => 5000,
            Self::Pack => 1000,
        }
    }

    /// Units of the remaining part of a month, for this many.
    fn units(self, quantity: i64, left: i64) -> Decimal {
        let of_one = match self {
            Self::Basic => 1000,
            Self::Pro => 3000,
            Self::Pack => 500,
        };
        (Decimal::from(of_one * quantity * left) / Decimal::from(30)).round_dp(9)
    }
}

/// What an invoice grants and takes, and its money.
struct Invoice {
    /// The first day of the month for which it pays.
    day: i64,
    /// Units that it grants, for each line.
    grants: Vec<(Good, Decimal)>,
    /// Units of unused time that it takes from the grants of that good.
    unused: Vec<(Good, Decimal)>,
    money: Money,
}

/// How an invoice was settled, and how much came back.
#[derive(Clone, Copy)]
struct Money {
    settled: i64,
    returned: i64,
    undone: bool,
}

impl Money {
    fn share(self) -> Decimal {
        match self {
            Self { undone: true, .. } => Decimal::ZERO,
            Self { settled: 0, .. } => Decimal::ONE,
            Self { settled, returned, .. } => Decimal::from(settled - returned) / Decimal::from(settled),
        }
    }
}

/// A life: Stripe's events about it, the units that the org has at the end, and how much unused time finds no
/// grant to take it from.
struct Life {
    events: Vec<Value>,
    held: Decimal,
    homeless: usize,
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
        // An item keeps its id when its price changes.
        let item = if matches!(price, "price_basic" | "price_pro") { "plan" } else { price };
        json!({ "id": format!("il_{n}_{invoice}"), "object": "line_item", "amount": amount, "currency": "usd",
            "quantity": quantity, "description": "A line",
            "metadata": {}, "discount_amounts": [], "taxes": [],
                "period": { "start": start() + days.0 * DAY, "end": start() + days.1 * DAY },
            "pricing": { "type": "price_details",
                "price_details": { "price": price, "product": format!("prod_{price}") } },
            "parent": { "type": "subscription_item_details", "subscription_item_details": {
                "subscription": self.run.id("sub"), "subscription_item": format!("si_{item}"),
                    "proration": part } } })
    }

    /// An invoice with these lines, how it was settled, and how much came back.
    fn invoice(&mut self, name: &str, day: i64, lines: Vec<Value>, may_be_undone: bool) -> Money {
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
        Money { settled, returned: returned.min(settled), undone: voided || emptied }
    }

    /// Refunds, credit notes and disputes; returns their sum.
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
                self.note(
                    name,
                    &refund,
                    amount + credited,
                    &json!({ "type": "post_payment", "pre_payment_amount": 0,
                    "post_payment_amount": amount + credited,
                    "out_of_band_amount": outside,
                        "refunds": [{ "refund": self.run.id(&format!("re_{refund}")),
                        "amount_refunded": amount }] }),
                );
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
                    json!([{ "amount": -by_card, "currency": "usd", "net": -by_card },
                        { "amount": by_card, "currency": "usd", "net": by_card }])
                }
                "warning_closed" => json!([]),
                _ => json!([{ "amount": -by_card, "currency": "usd", "net": -by_card }]),
            };
            let object = json!({ "id": self.run.id(&format!("du_{name}")), "object": "dispute",
                "created": start() + at, "amount": by_card, "currency": "usd",
                "status": status, "reason": "fraudulent", "charge": self.run.id(&format!("ch_{name}")),
                    "payment_intent": self.run.id(&format!("pi_{name}")),
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

/// A month of a plan with seats and packs, and changes of them.
fn life(run: &Run, dice: &mut Dice) -> Life {
    let mut teller = Teller { run, dice, events: vec![run.customer(), run.price("price_over", "metered")] };
    let (mut plan, mut seats, mut packs) = (Good::Basic, teller.dice.within(1, 4), teller.dice.within(0, 3));
    if teller.dice.one_in(3) {
        plan = Good::Pro;
    }
    let changes = teller.dice.within(0, 4);
    let lines = teller.month("a", plan, seats, packs);
    // A change needs a month that it belongs to.
    let twice = teller.dice.one_in(4);
    let mut money = teller.invoice("a", 0, lines, changes == 0 || twice);
    // The same month on another invoice: the one with the most units left counts.
    if twice {
        let lines = teller.month("z", plan, seats, packs);
        let other = teller.invoice("z", 1, lines, changes == 0 || !money.undone);
        if other.share() > money.share() {
            money = other;
        }
    }
    let mut grants = vec![(plan, plan.units(seats, 30))];
    if packs > 0 {
        grants.push((Good::Pack, Good::Pack.units(packs, 30)));
    }
    let mut invoices = vec![Invoice { day: 0, grants, unused: Vec::new(), money }];
    // Some days apart: changes of the plan or its seats, of the packs, of both.
    let mut day = 0;
    for n in 0..changes {
        day += teller.dice.within(1, 9);
        let mut invoice = Invoice { day, grants: Vec::new(), unused: Vec::new(), money };
        let (name, mut lines) = (format!("c{n}"), Vec::new());
        if packs == 0 || teller.dice.one_in(2) {
            let new = if teller.dice.one_in(4) {
                plan
            } else {
                [Good::Pro, Good::Basic][usize::from(plan == Good::Pro)]
            };
            let more = teller.dice.within(1, 4);
            teller.change(&name, &mut invoice, &mut lines, (plan, seats), (new, more));
            (plan, seats) = (new, more);
        }
        if packs > 0 && (lines.is_empty() || teller.dice.one_in(3)) {
            let more = teller.dice.within(0, 4);
            teller.change(&name, &mut invoice, &mut lines, (Good::Pack, packs), (Good::Pack, more));
            packs = more;
        }
        invoice.money = teller.invoice(&name, day, lines, true);
        invoices.push(invoice);
    }
    let (held, homeless) = held(&invoices);
    Life { events: teller.events, held, homeless }
}

impl Teller<'_> {
    /// The lines of a month: overage of the month before, seats (in two tiers or one line), packs.
    fn month(&mut self, name: &str, plan: Good, seats: i64, packs: i64) -> Vec<Value> {
        let (mut lines, id) = (Vec::new(), self.run.id(&format!("in_{name}")));
        if self.dice.one_in(2) {
            lines.push(self.line((&id, 9), "price_over", 777, 700, (-30, 0), false));
        }
        let tiers = if seats > 1 && self.dice.one_in(2) { vec![1, seats - 1] } else { vec![seats] };
        for (n, quantity) in tiers.into_iter().enumerate() {
            lines.push(self.line((&id, n), plan.price(), plan.cost() * quantity, quantity, (0, 30), false));
        }
        if packs > 0 {
            lines.push(self.line((&id, 5), "price_addon", 1000 * packs, packs, (0, 30), false));
        }
        lines
    }

    /// Changes a number of one good into a number of another, for the rest of the month.
    fn change(
        &self,
        name: &str,
        invoice: &mut Invoice,
        lines: &mut Vec<Value>,
        (old, before): (Good, i64),
        (new, after): (Good, i64),
    ) {
        let (day, left, id) = (invoice.day, 30 - invoice.day, self.run.id(&format!("in_{name}")));
        let (unused, remaining) = (old.cost() * before * left / 30, new.cost() * after * left / 30);
        lines.push(self.line((&id, lines.len()), old.price(), -unused, before, (day, 30), true));
        invoice.unused.push((old, old.units(before, left)));
        if after > 0 {
            lines.push(self.line((&id, lines.len()), new.price(), remaining, after, (day, 30), true));
        }
        // For packs a credit adds nothing. A plan is another plan even if it is cheaper.
        if after > 0 && (new != Good::Pack || remaining > unused) {
            invoice.grants.push((new, new.units(after, left)));
        }
    }
}

/// The units that the org has: of each grant, the settled part that did not come back, less its unused part.
/// A change takes unused time from the latest grant of the good. Also returns how many changes find no grant.
fn held(invoices: &[Invoice]) -> (Decimal, usize) {
    let mut unused: Vec<Vec<Decimal>> =
        invoices.iter().map(|invoice| vec![Decimal::ZERO; invoice.grants.len()]).collect();
    let mut homeless = 0;
    for (n, change) in invoices.iter().enumerate().filter(|(_, change)| !change.money.undone) {
        for (good, units) in &change.unused {
            let earlier = (0..n).rev().filter(|at| !invoices[*at].money.undone);
            let holder = earlier
                .filter_map(|at| {
                    let place = invoices[at].grants.iter().position(|(other, _)| other == good)?;
                    Some((at, place))
                })
                .next();
            match holder {
                Some((at, place)) => unused[at][place] += units,
                None => homeless += 1,
            }
        }
    }
    let mut sum = Decimal::ZERO;
    for (invoice, unused) in invoices.iter().zip(unused).filter(|(invoice, _)| !invoice.money.undone) {
        for ((_, units), unused) in invoice.grants.iter().zip(unused) {
            let Money { settled, returned, .. } = invoice.money;
            let back = if settled > 0 {
                (*units * Decimal::from(returned) / Decimal::from(settled)).round_dp(9)
            } else {
                Decimal::ZERO
            };
            sum += (*units - back - unused).max(Decimal::ZERO);
        }
    }
    (sum, homeless)
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
        expected.push((life.held, life.homeless));
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
    for (name, (expected, homeless)) in names.iter().zip(expected) {
        let balance: Decimal = super::battery(&database, name).0.parse().unwrap_or_default();
        let apart = (balance - expected).abs();
        assert!(
            apart <= Decimal::new(5, 9),
            "seed {seed}, life {name}: the balance is {balance}, not {expected}"
        );
        let waits = database.number(&format!(
            "SELECT count(*) FROM battery_effects_waiting
             WHERE reason = 'no_grant' AND customer_id = 'cus_{name}'"
        ));
        // If the grant was voided after the time was taken from it, nothing waits either.
        let waits = usize::try_from(waits).expect("few");
        assert!(waits <= homeless, "seed {seed}, life {name}: {waits} wait, but {homeless} find no grant");
    }
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()), "seed {seed}");
    let others = database.number(
        "SELECT count(*) FROM battery_effects_waiting WHERE reason NOT IN ('no_grant', 'already_granted')",
    );
    assert_eq!(others, 0, "seed {seed}");
}

#[tokio::test]
async fn whatever_a_subscription_lives_through_its_units_are_those_that_were_paid_for() {
    lives(20_261_127, 60).await;
}

/// Many more lives.
#[tokio::test]
#[ignore = "takes minutes"]
async fn lives_of_many_seeds() {
    for seed in 1..=20 {
        lives(seed, 250).await;
    }
}
