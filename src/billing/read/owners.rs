//! Who owns a row: its customer, and the org that the customer is linked to.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Bool, Text};

use super::select::{Bind, Where};
use super::{Belongs, ListedRow};
use crate::error::Error;
use crate::realm::Realm;

/// SQL of a payment's customer; `p` is the payment.
const PAYER: &str = "coalesce(p.customer_id, (SELECT i.customer_id FROM invoices i
    WHERE (i.account, i.livemode, i.id) = (p.account, p.livemode, p.invoice_id)))";

/// SQL of the row's customer.
pub(super) fn customer<T: ListedRow>() -> String {
    let table = T::TABLE;
    match T::BELONGS {
        Belongs::ToNobody => "NULL".to_owned(),
        Belongs::By(column) => format!("{table}.{column}"),
        Belongs::LikePayments => PAYER.replace("p.", &format!("{table}.")),
        Belongs::ThroughPayment => format!(
            "(SELECT {PAYER} FROM payments p WHERE {tie}
              ORDER BY p.customer_id IS NULL, p.invoice_id IS NULL, p.id LIMIT 1)",
            tie = tie(table)
        ),
    }
}

/// SQL of the public id of the row's org.
pub(super) fn org<T: ListedRow>() -> String {
    match T::BELONGS {
        Belongs::ToNobody => "NULL".to_owned(),
        _ => format!(
            "(SELECT o.public_id
              FROM stripe_customer_links l
              JOIN org_refs r USING (ref)
              JOIN orgs o USING (org_id)
              WHERE l.account = {table}.account
                  AND l.livemode = {table}.livemode
                  AND l.customer_id = {customer})",
            table = T::TABLE,
            customer = customer::<T>()
        ),
    }
}

/// Adds the condition: only rows that are (true) or are not (false) linked to an org.
pub(super) fn linked<T: ListedRow>(rows: &mut Where, linked: bool) {
    let not = if linked { "" } else { "NOT " };
    rows.sql(&format!(
        " AND {not}EXISTS (SELECT FROM stripe_customer_links l
          JOIN org_refs r USING (ref)
          WHERE l.account = {table}.account
              AND l.livemode = {table}.livemode
              AND l.customer_id = {customer})",
        table = T::TABLE,
        customer = customer::<T>()
    ));
}

/// Ids of customers or invoices by realm. The key `None`: in any realm.
#[derive(Debug, Default)]
pub(super) struct Customers(BTreeMap<Option<Realm>, Vec<String>>);

impl Customers {
    /// The customer with this id in any realm.
    pub(super) fn anywhere(id: &str) -> Self {
        Self([(None, vec![id.to_owned()])].into())
    }

    /// The condition that `alias.column` is one of these.
    fn named_by(&self, alias: &str, column: &str) -> Where {
        let mut any = Where::default();
        any.sql("(false");
        for (realm, ids) in &self.0 {
            any.sql(" OR (");
            if let Some(Realm { account, livemode }) = realm {
                let sql = format!("{alias}.account = {{}} AND {alias}.livemode = {{}} AND ");
                any.with(&sql, [account.into(), (*livemode).into()]);
            }
            // With `=` instead of `ANY`, an index on the id also gives the order.
            match ids.as_slice() {
                [id] => any.with(&format!("{alias}.{column} = {{}})"), [id.into()]),
                ids => any.with(&format!("{alias}.{column} = ANY ({{}}))"), [Bind::Texts(ids.to_vec())]),
            };
        }
        any.sql(")");
        any
    }
}

/// The customers linked to the org with this public id.
pub(super) fn customers_of(conn: &mut PgConnection, org: &str) -> QueryResult<Customers> {
    let query = Where::new(
        "SELECT l.account, l.livemode, l.customer_id
         FROM orgs o
         JOIN org_refs r USING (org_id)
         JOIN stripe_customer_links l USING (ref)
         WHERE o.public_id = {}",
        [org.into()],
    );
    keys(conn, query)
}

/// Invoices of these customers that a payment pays which names no customer.
fn invoices_paid_namelessly(conn: &mut PgConnection, customers: &Customers) -> QueryResult<Customers> {
    let mut query = Where::default();
    query
        .sql(
            "SELECT DISTINCT i.account, i.livemode, i.id
             FROM payments p
             JOIN invoices i ON i.account = p.account AND i.livemode = p.livemode AND i.id = p.invoice_id
             WHERE p.customer_id IS NULL AND ",
        )
        .append(&customers.named_by("i", "customer_id"));
    keys(conn, query)
}

/// Adds the condition: only rows of these customers.
pub(super) fn only<T: ListedRow>(
    conn: &mut PgConnection,
    rows: &mut Where,
    customers: &Customers,
) -> Result<(), Error> {
    let table = T::TABLE;
    match T::BELONGS {
        Belongs::ToNobody => {}
        Belongs::By(column) => {
            rows.sql(" AND ").append(&customers.named_by(table, column));
        }
        Belongs::LikePayments => {
            rows.sql(" AND ").append(&paid_by(conn, table, customers)?);
        }
        Belongs::ThroughPayment => {
            let payments = paid_by(conn, "p", customers)?;
            if at_most_few(conn, &payments)? {
                through_few_payments::<T>(rows, &payments);
            } else {
                through_many_payments::<T>(rows, &payments);
            }
        }
    }
    Ok(())
}

/// The condition that one of these customers made the payment `alias`.
fn paid_by(conn: &mut PgConnection, alias: &str, customers: &Customers) -> Result<Where, Error> {
    let invoices = invoices_paid_namelessly(conn, customers)?;
    let mut any = customers.named_by(alias, "customer_id");
    if !invoices.0.is_empty() {
        let mut both = Where::default();
        both.sql("(").append(&any).sql(&format!(" OR ({alias}.customer_id IS NULL AND "));
        both.append(&invoices.named_by(alias, "invoice_id")).sql("))");
        any = both;
    }
    Ok(any)
}

/// SQL: the condition that the payment `p` is that of a row of the table.
fn tie(table: &str) -> String {
    format!(
        "p.account = {table}.account AND p.livemode = {table}.livemode
         AND (p.id = {table}.payment_intent_id
             OR ({table}.payment_intent_id IS NULL AND p.charge_id = {table}.charge_id))"
    )
}

/// With more payments than this, searching the newest refunds is cheaper than collecting and sorting the
/// refunds of these payments.
const FEW: i64 = 10_000;

fn at_most_few(conn: &mut PgConnection, payment: &Where) -> QueryResult<bool> {
    let mut query = Where::default();
    query.sql("SELECT count(*) FROM (SELECT FROM payments p WHERE ").append(payment);
    query.sql(&format!(" LIMIT {FEW} + 1) AS found"));
    HandWritten::<BigInt>(query, PhantomData).get_result(conn).map(|count: i64| count <= FEW)
}

/// Adds the condition: only rows whose payment `p` fulfils `payment`, where few payments do. A row names its
/// payment by intent or by charge: the two are read separately, each through its index.
pub(super) fn through_few_payments<T: ListedRow>(rows: &mut Where, payment: &Where) {
    let table = T::TABLE;
    let join = format!(
        "SELECT x.account, x.livemode, x.id FROM payments p
         JOIN {table} x ON x.account = p.account AND x.livemode = p.livemode"
    );
    rows.sql(&format!(
        " AND ({table}.account, {table}.livemode, {table}.id) IN ({join}
        AND x.payment_intent_id = p.id WHERE "
    ))
    .append(payment)
    .sql(&format!(
        " UNION ALL {join} AND x.payment_intent_id IS NULL AND x.charge_id = p.charge_id
            WHERE "
    ))
    .append(payment)
    .sql(")");
}

/// The same condition, where many payments fulfil it.
fn through_many_payments<T: ListedRow>(rows: &mut Where, payment: &Where) {
    rows.sql(&format!(" AND EXISTS (SELECT FROM payments p WHERE {} AND ", tie(T::TABLE)));
    rows.append(payment).sql(")");
}

/// A query in SQL text, with columns of the types `ST`. PostgreSQL plans it for its values each time.
struct HandWritten<ST>(Where, PhantomData<ST>);

impl<ST> QueryFragment<Pg> for HandWritten<ST> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        self.0.walk_ast(out)
    }
}

impl<ST> QueryId for HandWritten<ST> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<ST> Query for HandWritten<ST> {
    type SqlType = ST;
}

impl<ST> RunQueryDsl<PgConnection> for HandWritten<ST> {}

fn keys(conn: &mut PgConnection, query: Where) -> QueryResult<Customers> {
    let query = HandWritten::<(Text, Bool, Text)>(query, PhantomData);
    let found: Vec<(String, bool, String)> = query.load(conn)?;
    let mut ids: BTreeMap<Option<Realm>, Vec<String>> = BTreeMap::new();
    for (account, livemode, id) in found {
        ids.entry(Some(Realm { account, livemode })).or_default().push(id);
    }
    Ok(Customers(ids))
}
