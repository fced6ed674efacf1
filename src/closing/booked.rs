//! Reads what accounts booked in a month, with the documents and payments behind it. Nothing that it reads
//! ever changes, so a closed month reads the same for ever.

use chrono::{Months, NaiveDate};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Nullable, Text};
use serde_json::Value;

use super::postings::{Booked, BookedEntry};
use crate::documents::content::Document;
use crate::error::Error;
use crate::invoicing::account::EntryKind;
use crate::schema::{account_entries, sellers as all_sellers};

const CURSOR: &str = "coulomb_booked";
/// Rows of a page; a document has some kilobytes.
const PAGE: usize = 500;

/// The order of entries: that of the digests and of journals.
pub(super) const ORDER: &str = r#"e.day, o.public_id COLLATE "C", e.currency COLLATE "C", e.sequence"#;

const SQL: &str = "
    SELECT e.org_id, o.public_id AS org, e.seller_id, e.currency, e.sequence, e.kind, e.document_id, e.amount,
        e.day, e.belongs_to, e.description, d.content, p.processor, p.payment_account_id,
        CASE WHEN e.kind = 'payment' THEN p.fee END AS fee, n.name
    FROM account_entries e
    JOIN orgs o USING (org_id)
    LEFT JOIN own_documents d ON e.kind IN ('invoice', 'credit_note', 'void')
        AND (d.org_id, d.document_id) = (e.org_id, e.document_id)
    LEFT JOIN own_refunds r ON e.kind IN ('refund', 'reversal')
        AND (r.org_id, r.refund_id) = (e.org_id, e.document_id)
    LEFT JOIN own_payments p ON e.kind IN ('payment', 'refund', 'reversal')
        AND (p.org_id, p.payment_id) = (e.org_id, coalesce(r.payment_id, e.document_id))
    LEFT JOIN LATERAL (SELECT l.content::jsonb #>> '{buyer,name}' AS name FROM own_documents l
        WHERE d.content IS NULL AND l.org_id = e.org_id AND l.created_at <= e.created_at
        ORDER BY l.created_at DESC, l.document_id DESC LIMIT 1) n ON true
    WHERE e.day >= $1 AND e.day < $2 AND ($3 IS NULL OR e.seller_id = $3)";

#[derive(QueryableByName)]
struct BookedRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    org: String,
    #[diesel(sql_type = Text)]
    seller_id: String,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = BigInt)]
    sequence: i64,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    document_id: String,
    #[diesel(sql_type = BigInt)]
    amount: i64,
    #[diesel(sql_type = Date)]
    day: NaiveDate,
    #[diesel(sql_type = Nullable<Date>)]
    belongs_to: Option<NaiveDate>,
    #[diesel(sql_type = Text)]
    description: String,
    #[diesel(sql_type = Nullable<Text>)]
    content: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    processor: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    payment_account_id: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    fee: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
}

/// The first day of the month after `month`.
pub(super) fn next_month(month: NaiveDate) -> NaiveDate {
    month.checked_add_months(Months::new(1)).unwrap_or(NaiveDate::MAX)
}

/// Calls `each` for every entry of a month, in order, inside the caller's transaction.
///
/// # Errors
/// Those of `each`; [`Error::Internal`] when a document is missing or cannot be read.
pub(super) fn each(
    conn: &mut PgConnection,
    month: NaiveDate,
    seller: Option<&str>,
    mut each: impl FnMut(&BookedEntry, &Booked) -> Result<(), Error>,
) -> Result<(), Error> {
    diesel::sql_query(format!("DECLARE {CURSOR} NO SCROLL CURSOR FOR {SQL} ORDER BY {ORDER}"))
        .bind::<Date, _>(month)
        .bind::<Date, _>(next_month(month))
        .bind::<Nullable<Text>, _>(seller)
        .execute(conn)?;
    loop {
        let fetch = format!("FETCH FORWARD {PAGE} FROM {CURSOR}");
        let page: Vec<BookedRow> = diesel::sql_query(fetch).load(conn)?;
        if page.is_empty() {
            break;
        }
        for row in page {
            let (entry, booked) = read(conn, row)?;
            each(&entry, &booked)?;
        }
    }
    diesel::sql_query(format!("CLOSE {CURSOR}")).execute(conn)?;
    Ok(())
}

fn read(conn: &mut PgConnection, row: BookedRow) -> Result<(BookedEntry, Booked), Error> {
    let kind: EntryKind = serde_json::from_value(Value::String(row.kind.clone()))
        .map_err(|_| Error::Internal(format!("account_entries has the kind {}", row.kind)))?;
    let document = row.content.as_deref().map(|text| document(&row.document_id, text)).transpose()?;
    let name = document.as_ref().map(|document| document.buyer.name.clone()).or(row.name);
    let missing = || Error::Internal(format!("{} is booked, but is not there", row.document_id));
    let booked = match kind {
        EntryKind::Invoice | EntryKind::CreditNote => {
            Booked::Document(Box::new(document.ok_or_else(missing)?))
        }
        EntryKind::Void => Booked::Voided {
            invoice: Box::new(document.ok_or_else(missing)?),
            credit_notes: credit_notes(conn, row.org_id, &row.document_id)?,
        },
        EntryKind::Payment | EntryKind::Refund | EntryKind::Reversal => Booked::Money {
            processor: row.processor.ok_or_else(missing)?,
            payment_account: row.payment_account_id,
            fee: row.fee,
        },
        EntryKind::WriteOff | EntryKind::Recovery | EntryKind::Adjustment | EntryKind::OpeningBalance => {
            Booked::Alone
        }
    };
    let entry = BookedEntry {
        org_id: row.org_id,
        name: name.unwrap_or_else(|| row.org.clone()),
        org: row.org,
        seller: row.seller_id,
        currency: row.currency,
        sequence: row.sequence,
        kind,
        document: row.document_id,
        amount: row.amount,
        day: row.day,
        belongs_to: row.belongs_to,
        description: row.description,
    };
    Ok((entry, booked))
}

fn document(id: &str, text: &str) -> Result<Document, Error> {
    serde_json::from_str(text).map_err(|error| Error::Internal(format!("document {id}: {error}")))
}

/// The credit notes of an invoice. A void invoice gets no further one.
fn credit_notes(conn: &mut PgConnection, org_id: i64, invoice: &str) -> Result<Vec<Document>, Error> {
    #[derive(QueryableByName)]
    struct Note {
        #[diesel(sql_type = Text)]
        document_id: String,
        #[diesel(sql_type = Text)]
        content: String,
    }
    let notes: Vec<Note> = diesel::sql_query(
        "SELECT d.document_id, d.content FROM own_credit_notes n
         JOIN own_documents d ON (d.org_id, d.document_id) = (n.org_id, n.credit_note_id)
         WHERE n.org_id = $1 AND n.invoice_id = $2 ORDER BY n.credit_note_id",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(invoice)
    .load(conn)?;
    notes.into_iter().map(|note| document(&note.document_id, &note.content)).collect()
}

/// Keys of the sellers that booked something in a month.
pub(super) fn sellers(conn: &mut PgConnection, month: NaiveDate) -> QueryResult<Vec<String>> {
    use account_entries as e;
    e::table
        .filter(e::day.ge(month).and(e::day.lt(next_month(month))))
        .select(e::seller_id)
        .distinct()
        .order(e::seller_id)
        .load(conn)
}

/// Whether there is a seller of this key.
pub(super) fn is_seller(conn: &mut PgConnection, seller: &str) -> QueryResult<bool> {
    diesel::select(diesel::dsl::exists(all_sellers::table.find(seller))).get_result(conn)
}
