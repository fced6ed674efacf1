//! Applies what sources are worth to the locked accounts, and writes down what was applied.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Jsonb, Numeric, Text, Untyped};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::facts::{Facts, LineUnits};
use super::model::{self, Expiry, NewClaim, Outcome, Take};
use super::returns::{Cause, CauseKind, Counted};
use super::waiting::{self, Waits};
use super::{SaleSource, decide, mark, mark_siblings, repeats, sources};
use crate::battery::account::{Account, NewGrant, Note};
use crate::battery::{Accounts, Kind as EntryKind};
use crate::config::Proration;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

/// What is counted against the grants of this transaction, by org and number of the grant.
pub(super) type CountedByGrant = BTreeMap<(i64, i64), Counted>;

statement!(Grants -> (BigInt, BigInt, Numeric, BigInt):
    "SELECT e.org_id, e.grant_number, e.units, e.paid_minor FROM unnest(?, ?) AS k (o, n)
     JOIN battery_effects e ON e.org_id = k.o AND e.grant_number = k.n WHERE e.units > 0");
statement!(Returns -> (BigInt, BigInt, Text, Text, BigInt, Numeric):
    "SELECT r.org_id, r.grant_number, r.cause_kind, r.cause_id, r.minor, r.units FROM unnest(?, ?) AS k (o, n)
     JOIN battery_returns r ON r.org_id = k.o AND r.grant_number = k.n");

statement!(Settle -> Untyped:
    "UPDATE battery_effects e SET paid_minor = k.paid
     FROM unnest(?, ?, ?, ?, ?) AS k (account, livemode, kind, id, paid)
     WHERE (e.source_id, e.source_kind, e.account, e.livemode) = (k.id, k.kind, k.account, k.livemode)");

/// What is counted against these grants.
pub(super) fn book(conn: &mut PgConnection, grants: &BTreeSet<(i64, i64)>) -> Result<CountedByGrant, Error> {
    let mut book = CountedByGrant::new();
    if grants.is_empty() {
        return Ok(book);
    }
    let orgs = || grants.iter().map(|(org, _)| *org).collect::<Vec<_>>();
    let numbers = || grants.iter().map(|(_, number)| *number).collect::<Vec<_>>();
    let rows: Vec<(i64, i64, Decimal, i64)> =
        Prepared::<Grants>::new().bind::<BigInt, _>(orgs()).bind::<BigInt, _>(numbers()).load(conn)?;
    for (org, number, amount, paid) in rows {
        book.insert((org, number), Counted { amount, paid, causes: BTreeMap::new() });
    }
    let rows: Vec<(i64, i64, String, String, i64, Decimal)> =
        Prepared::<Returns>::new().bind::<BigInt, _>(orgs()).bind::<BigInt, _>(numbers()).load(conn)?;
    for (org, number, kind, id, minor, units) in rows {
        if let Some(counted) = book.get_mut(&(org, number)) {
            counted.causes.insert((CauseKind::parse(&kind)?, id), (minor, units));
        }
    }
    Ok(book)
}

/// Applies the sources to the accounts, which are written by the caller.
pub(super) fn apply(
    conn: &mut PgConnection,
    accounts: &mut Accounts,
    facts: &BTreeMap<SaleSource, Facts>,
    proration: Proration,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let grants = facts.values().flat_map(|facts| {
        let org = model::org_of(facts);
        let claimed = facts.claims.iter().filter_map(|claim| Some((claim.org_id, claim.grant?)));
        let holders = facts.lines.iter().flat_map(|line| &line.holders);
        let holders = holders.filter_map(move |holder| Some((org?, holder.number)));
        claimed.chain(holders)
    });
    let mut work = Work {
        book: book(conn, &grants.collect())?,
        made: BTreeMap::new(),
        claims: Vec::new(),
        returns: Vec::new(),
        settled: Vec::new(),
        now,
    };
    let (mut again, mut subscriptions, mut granted) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let judged = judged(facts, proration, now)?;
    let mut waits = Waits::default();
    // What one grants comes before what another loses: of a period that both sold, nothing else is taken.
    for one in &judged {
        let account = model::org_of(one.facts).and_then(|org| accounts.get_mut(org));
        account.map(|account| work.grants(account, one)).transpose()?;
    }
    for one in judged.iter().filter(|one| !one.loses()).chain(judged.iter().filter(|one| one.loses())) {
        let Judged { source, facts, outcome, .. } = one;
        let account = match model::org_of(facts).map(|org| accounts.get_mut(org)) {
            Some(Some(account)) => Some(account),
            // It has come to belong to another org since the look without locks.
            Some(None) => {
                again.extend((!facts.beside).then(|| (*source).clone()));
                continue;
            }
            None if facts.beside => continue,
            None => None,
        };
        // Only what is new may help others, or two that wait would wake each other for ever.
        let known = |line: &str| facts.waiting.iter().any(|waiting| waiting.line == line);
        if !outcome.grants.is_empty() || outcome.waits.iter().any(|wait| !known(&wait.line)) {
            subscriptions.extend(facts.lines.iter().filter_map(|line| line.subscription.clone()));
        }
        granted.extend(
            outcome
                .grants
                .iter()
                .filter(|grant| !grant.units.is_zero())
                .filter_map(|grant| grant.subscription.clone()),
        );
        if let Some(account) = account {
            let undone = work.source(account, one)?;
            // Unused time is then held by another grant.
            granted
                .extend(facts.lines.iter().filter(|_| undone).filter_map(|line| line.subscription.clone()));
        }
        waits.add(source, facts, &outcome.waits);
    }
    // A grant that came after its end lapses.
    accounts.iter_mut().for_each(|account| account.catch_up(now));
    waits.write(conn, now)?;
    work.write(conn)?;
    if !subscriptions.is_empty() {
        waiting::wake_subscriptions(conn, subscriptions.into_iter().collect())?;
    }
    if !granted.is_empty() {
        mark_siblings(conn, granted.into_iter().collect())?;
    }
    mark(conn, again)
}

/// A source, and what it comes to.
struct Judged<'a> {
    source: &'a SaleSource,
    facts: &'a Facts,
    outcome: Outcome,
    /// Lines that another invoice stands for.
    repeats: BTreeMap<String, Option<String>>,
}

impl Judged<'_> {
    /// Whether it holds nothing, or not all that it granted.
    fn loses(&self) -> bool {
        !self.repeats.is_empty() || repeats::share(self.facts).is_zero()
    }
}

/// Judges all of them, and then which of them sold the same.
fn judged(
    facts: &BTreeMap<SaleSource, Facts>,
    proration: Proration,
    now: DateTime<Utc>,
) -> Result<Vec<Judged<'_>>, Error> {
    let judged = |(source, facts)| {
        let outcome = decide::outcome(source, facts, proration, now)?;
        Ok(Judged { source, facts, outcome, repeats: BTreeMap::new() })
    };
    let mut judged: Vec<Judged<'_>> = facts.iter().map(judged).collect::<Result<_, Error>>()?;
    let mut repeats = repeats::repeats(judged.iter().map(|one| (one.source, one.facts, Some(&one.outcome))));
    for one in &mut judged {
        one.repeats = repeats.remove(one.source).unwrap_or_default();
        repeats::let_wait(one.facts, &mut one.outcome, &one.repeats);
    }
    Ok(judged)
}

struct Work {
    book: CountedByGrant,
    /// Grants that were made now, by source.
    made: BTreeMap<SaleSource, Vec<i64>>,
    /// Rows of `battery_effects`.
    claims: Vec<Value>,
    /// What changed of `battery_returns`.
    returns: Vec<(i64, i64, CauseKind, String)>,
    /// Sources that were settled with another amount than was counted.
    settled: Vec<(SaleSource, i64)>,
    now: DateTime<Utc>,
}

impl Work {
    /// Makes the new grants of a source.
    fn grants(&mut self, account: &mut Account, one: &Judged<'_>) -> Result<(), Error> {
        let paid = model::settled(one.facts);
        for new in &one.outcome.grants {
            if let Some(number) = self.grant(account, one.source, &paid, new)? {
                self.made.entry(one.source.clone()).or_default().push(number);
            }
        }
        Ok(())
    }

    /// Applies all else of a source; whether it was found out now that nothing is left of it or of one of its
    /// grants, or that something is.
    fn source(&mut self, account: &mut Account, one: &Judged<'_>) -> Result<bool, Error> {
        let Judged { source, facts, outcome, repeats } = one;
        let mut own: Vec<i64> = facts
            .claims
            .iter()
            .filter(|claim| claim.units > Decimal::ZERO)
            .filter_map(|claim| claim.grant)
            .collect();
        let paid = model::settled(facts);
        if facts.claims.iter().any(|claim| claim.paid != paid.0) {
            self.settled.push(((*source).clone(), paid.0));
        }
        own.extend(self.made.remove(*source).unwrap_or_default());
        self.count_unused(account, source, facts)?;
        for take in &outcome.takes {
            self.take(account, source, &paid, take)?;
        }
        let mut undone = false;
        for claim in facts.claims.iter().filter(|claim| claim.units > Decimal::ZERO) {
            undone |= self.count_repeated(account, source, claim, repeats.get(&claim.line))?;
        }
        for number in &own {
            self.count_settled(account, source, *number, paid.0)?;
            undone |= self.count_undone(account, source, *number, model::is_undone(facts))?;
            self.count_returned(account, source, *number, &facts.returned)?;
        }
        Ok(undone)
    }

    /// Counts what the source of a grant was settled with.
    fn count_settled(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        number: i64,
        paid: i64,
    ) -> Result<(), Error> {
        let Some(counted) = self.book.get_mut(&(account.org_id, number)) else { return Ok(()) };
        let more = counted.settle(paid)?;
        let link = link(source, source.kind.name(), &source.id);
        self.move_units(account, number, more, source.kind.name(), &link)
    }

    /// Counts that nothing of the sale of a grant is left, or that it stands; whether that is news.
    fn count_undone(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        number: i64,
        undone: bool,
    ) -> Result<bool, Error> {
        let Some(counted) = self.book.get(&(account.org_id, number)) else { return Ok(false) };
        let units = if undone { counted.amount } else { Decimal::ZERO };
        let before = counted
            .causes
            .get(&(CauseKind::Invoice, source.id.clone()))
            .map_or(Decimal::ZERO, |cause| cause.1);
        let link = link(source, source.kind.name(), &source.id);
        self.count(account, number, (CauseKind::Invoice, &source.id), (0, units), &link)?;
        Ok(before != units)
    }

    /// Counts that another invoice stands for a period that this one had granted, or that it stands for
    /// itself; whether that is news.
    fn count_repeated(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        claim: &LineUnits,
        by: Option<&Option<String>>,
    ) -> Result<bool, Error> {
        let Some(number) = claim.grant else { return Ok(false) };
        let Some(counted) = self.book.get(&(account.org_id, number)) else { return Ok(false) };
        let (id, units) = (period_of(source), if by.is_some() { claim.units } else { Decimal::ZERO });
        let before =
            counted.causes.get(&(CauseKind::Invoice, id.clone())).map_or(Decimal::ZERO, |cause| cause.1);
        let link = link(source, source.kind.name(), by.and_then(Option::as_ref).unwrap_or(&source.id));
        self.count(account, number, (CauseKind::Invoice, &id), (0, units), &link)?;
        Ok(before != units)
    }

    /// Counts the unused time that lines of the source took from other grants, unless nothing of the source
    /// is left.
    fn count_unused(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        facts: &Facts,
    ) -> Result<(), Error> {
        let undone = model::is_undone(facts);
        for claim in facts.claims.iter().filter(|claim| claim.units < Decimal::ZERO) {
            let Some(number) = claim.grant else { continue };
            let units = if undone { Decimal::ZERO } else { -claim.units };
            let cause = key(source, &claim.line);
            let link = link(source, source.kind.name(), &source.id);
            self.count(account, number, (CauseKind::Proration, &cause), (0, units), &link)?;
        }
        Ok(())
    }

    /// Counts what was returned at a grant.
    fn count_returned(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        number: i64,
        returned: &[Cause],
    ) -> Result<(), Error> {
        let Some(counted) = self.book.get_mut(&(account.org_id, number)) else { return Ok(()) };
        let before = |cause: &Cause| {
            counted.causes.get(&(cause.kind, cause.id.clone())).map_or(0, |(minor, _)| *minor)
        };
        let changed: Vec<&Cause> = returned.iter().filter(|cause| before(cause) != cause.minor).collect();
        if changed.len() > 1 && counted.relabel(&changed)? {
            let names = changed.iter().map(|cause| (account.org_id, number, cause.kind, cause.id.clone()));
            self.returns.extend(names);
            return Ok(());
        }
        for cause in changed {
            let link = link(source, cause.kind.name(), &cause.id);
            self.count(account, number, (cause.kind, &cause.id), (cause.minor, Decimal::ZERO), &link)?;
        }
        Ok(())
    }

    fn grant(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        paid: &(i64, Option<String>),
        new: &NewClaim,
    ) -> Result<Option<i64>, Error> {
        let number = if new.units > Decimal::ZERO {
            let expires_at = match new.expires {
                Expiry::Never => None,
                Expiry::At(at) => Some(at),
                Expiry::Days(days) => Some(self.now + TimeDelta::days(i64::from(days))),
            };
            let number = account.grant_for_now(
                NewGrant {
                    source: new.source,
                    key: key(source, &new.line),
                    amount: new.units,
                    priority: new.priority,
                    effective_at: new.effective_at,
                    expires_at,
                    link: Some(link(source, source.kind.name(), &source.id)),
                    reason: None,
                    actor: None,
                },
                self.now,
            );
            let counted = Counted { amount: new.units, paid: paid.0, causes: BTreeMap::new() };
            self.book.insert((account.org_id, number), counted);
            Some(number)
        } else {
            None
        };
        self.claims.push(json!({
            "account": source.realm.account, "livemode": source.realm.livemode,
                "source_kind": source.kind.name(), "source_id": source.id,
            "line": new.line, "org_id": account.org_id, "what": new.what, "grant_number": number,
                "units": new.units, "paid_minor": paid.0,
            "currency": paid.1, "plan_id": new.plan.as_ref().map(|plan| &plan.0),
                "plan_version": new.plan.as_ref().map(|plan| plan.1),
            "pack_id": new.pack, "subscription_id": new.subscription, "price_id": new.price,
                "quantity": new.quantity,
            "period_start": new.period.map(|period| period.0),
                "period_end": new.period.map(|period| period.1), "created_at": self.now,
        }));
        Ok(number)
    }

    fn take(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        paid: &(i64, Option<String>),
        take: &Take,
    ) -> Result<(), Error> {
        let cause = key(source, &take.line);
        let link = link(source, source.kind.name(), &source.id);
        if let Some(before) = take.before {
            self.count(account, before, (CauseKind::Proration, &cause), (0, Decimal::ZERO), &link)?;
        }
        if let Some(holder) = take.holder {
            self.count(account, holder, (CauseKind::Proration, &cause), (0, take.units), &link)?;
        }
        self.claims.push(json!({
            "account": source.realm.account, "livemode": source.realm.livemode,
                "source_kind": source.kind.name(), "source_id": source.id,
            "line": take.line, "org_id": account.org_id, "what": "proration_back",
                "grant_number": take.holder, "units": -take.units,
            "paid_minor": paid.0, "currency": paid.1, "plan_id": take.plan.as_ref().map(|plan| &plan.0),
            "plan_version": take.plan.as_ref().map(|plan| plan.1), "subscription_id": take.subscription,
                "price_id": take.price,
            "quantity": take.quantity, "period_start": take.period.map(|period| period.0),
                "period_end": take.period.map(|period| period.1),
            "created_at": self.now, "known": take.known,
        }));
        Ok(())
    }

    /// Counts a cause at a grant, and moves the units that it makes a difference of.
    fn count(
        &mut self,
        account: &mut Account,
        number: i64,
        (kind, id): (CauseKind, &str),
        (minor, units): (i64, Decimal),
        link: &Value,
    ) -> Result<(), Error> {
        let Some(counted) = self.book.get_mut(&(account.org_id, number)) else { return Ok(()) };
        let Some(more) = counted.count(kind, id, minor, units)? else { return Ok(()) };
        self.returns.push((account.org_id, number, kind, id.to_owned()));
        self.move_units(account, number, more, kind.name(), link)
    }

    /// Takes units of a grant back, or (below zero) gives them again.
    fn move_units(
        &mut self,
        account: &mut Account,
        number: i64,
        more: Decimal,
        cause: &str,
        link: &Value,
    ) -> Result<(), Error> {
        let note = Note { link: Some(link.clone()), ..Note::of(cause) };
        if more > Decimal::ZERO {
            if !account.claw_back(number, more, note, self.now) {
                return Err(Error::Internal(format!("grant {number} of org {} is gone", account.org_id)));
            }
        } else if more < Decimal::ZERO {
            account.give_back(EntryKind::Clawback, -more, Some(number), note, self.now);
        }
        Ok(())
    }

    fn write(self, conn: &mut PgConnection) -> Result<(), Error> {
        let (known, new): (Vec<Value>, Vec<Value>) =
            self.claims.into_iter().partition(|claim| claim["known"] == true);
        if !new.is_empty() {
            // A second claim of the same line is refused by the primary key.
            diesel::sql_query(
                "INSERT INTO battery_effects SELECT *
                 FROM jsonb_populate_recordset(NULL::battery_effects, $1)",
            )
            .bind::<Jsonb, _>(Value::Array(new))
            .execute(conn)?;
        }
        if !known.is_empty() {
            diesel::sql_query(
                "UPDATE battery_effects e SET grant_number = n.grant_number
                 FROM jsonb_populate_recordset(NULL::battery_effects, $1) n
                 WHERE (e.source_id, e.source_kind, e.account, e.livemode, e.line) = (n.source_id,
                     n.source_kind, n.account, n.livemode, n.line)",
            )
            .bind::<Jsonb, _>(Value::Array(known))
            .execute(conn)?;
        }
        if !self.settled.is_empty() {
            let (sources, paid): (Vec<&SaleSource>, Vec<i64>) =
                self.settled.iter().map(|(source, paid)| (source, *paid)).unzip();
            sources::bound(Prepared::<Settle>::new(), &sources, true)
                .bind::<BigInt, _>(paid)
                .execute(conn)?;
        }
        let changed: BTreeSet<(i64, i64, CauseKind, String)> = self.returns.into_iter().collect();
        if changed.is_empty() {
            return Ok(());
        }
        let now_counted = |(org, number, kind, id): &(i64, i64, CauseKind, String)| {
            self.book[&(*org, *number)].causes[&(*kind, id.clone())]
        };
        diesel::sql_query(
            "INSERT INTO battery_returns (org_id, grant_number, cause_kind, cause_id, minor, units)
             SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[],
                 $6::numeric[])
             ON CONFLICT (org_id, grant_number, cause_kind, cause_id)
             DO UPDATE SET minor = excluded.minor, units = excluded.units",
        )
        .bind::<Array<BigInt>, _>(changed.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(changed.iter().map(|row| row.1).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed.iter().map(|row| row.2.name()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed.iter().map(|row| row.3.as_str()).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(changed.iter().map(|row| now_counted(row).0).collect::<Vec<_>>())
        .bind::<Array<Numeric>, _>(changed.iter().map(|row| now_counted(row).1).collect::<Vec<_>>())
        .execute(conn)?;
        Ok(())
    }
}

/// Under which it is counted at grants of an invoice that another one stands for their period.
pub(super) fn period_of(source: &SaleSource) -> String {
    format!("{}:period", source.id)
}

/// What a grant is made for: once an org. Objects of other accounts and of test mode say so.
fn key(source: &SaleSource, line: &str) -> String {
    let mut key = String::new();
    if !source.realm.account.is_empty() {
        key.push_str(&source.realm.account);
        key.push('/');
    }
    if !source.realm.livemode {
        key.push_str("test/");
    }
    key.push_str(source.kind.name());
    key.push(':');
    key.push_str(&source.id);
    if !line.is_empty() {
        key.push(':');
        key.push_str(line);
    }
    key
}

/// The Stripe object that a grant or an entry comes from.
fn link(source: &SaleSource, object: &str, id: &str) -> Value {
    let mut link = json!({ "object": object, "id": id });
    if !source.realm.account.is_empty() {
        link["account"] = source.realm.account.clone().into();
    }
    if !source.realm.livemode {
        link["livemode"] = false.into();
    }
    link
}
