//! Numbers of documents, and the documents as they were issued. Owns `document_numbers`,
//! `issued_numbers` and `own_documents`.
//!
//! A number is taken in the transaction that finalises the document, under the lock of its series, which is
//! the last lock of all. When that transaction fails, the number was never taken: so a series has no gap, and
//! no number is there twice. Drafts have none; a void invoice keeps its number.
//!
//! Numbers that a series is still to give belong to it alone: no import may have one, and no seller takes a
//! prefix whose next numbers are issued already. Else finalising would come to a number that is taken, and it
//! must not skip one, as that is a gap.

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Text};
use sha2::{Digest, Sha256};

use super::sellers::{Seller, SellerSettings};
use crate::documents::content::{Document, DocumentKind};
use crate::error::Error;
use crate::schema::{document_numbers, issued_numbers, own_documents as t};

/// A place in a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeriesPlace {
    pub(super) year: i32,
    pub(super) number: i64,
    /// As the document shows it: `INV-2026-000001`.
    pub(super) text: String,
}

/// The name of a kind in the database.
fn kind_name(kind: DocumentKind) -> &'static str {
    match kind {
        DocumentKind::Invoice => "invoice",
        DocumentKind::CreditNote => "credit_note",
    }
}

/// Takes the next number of the series of a seller, a kind and the year of `day`.
pub(super) fn take(
    conn: &mut PgConnection,
    seller: &Seller,
    kind: DocumentKind,
    day: NaiveDate,
) -> Result<SeriesPlace, Error> {
    #[derive(QueryableByName)]
    struct Taken {
        #[diesel(sql_type = BigInt)]
        last: i64,
    }
    let year = day.year();
    let taken: Taken = diesel::sql_query(
        "INSERT INTO document_numbers AS n (seller_id, kind, year, last) VALUES ($1, $2, $3, 1)
         ON CONFLICT (seller_id, kind, year) DO UPDATE SET last = n.last + 1 RETURNING last",
    )
    .bind::<Text, _>(&seller.id)
    .bind::<Text, _>(kind_name(kind))
    .bind::<Integer, _>(year)
    .get_result(conn)?;
    let text = numbered(prefix(&seller.body.settings, kind), year, taken.last);
    Ok(SeriesPlace { year, number: taken.last, text })
}

/// What the numbers of a kind begin with.
fn prefix(settings: &SellerSettings, kind: DocumentKind) -> &str {
    match kind {
        DocumentKind::Invoice => &settings.invoice_prefix,
        DocumentKind::CreditNote => &settings.credit_note_prefix,
    }
}

/// A place in a series as documents show it.
fn numbered(prefix: &str, year: i32, number: i64) -> String {
    format!("{prefix}{year}-{number:06}")
}

/// The year and the place that a text has in the series of a prefix; `None`: it is no number of it.
fn place_of(prefix: &str, text: &str) -> Option<(i32, i64)> {
    let (year, number) = text.strip_prefix(prefix)?.split_once('-')?;
    let (year, number) = (year.parse().ok()?, number.parse().ok()?);
    (numbered(prefix, year, number) == text).then_some((year, number))
}

/// The last place that is taken in a series; 0: none.
fn last_of(conn: &mut PgConnection, seller: &str, kind: DocumentKind, year: i32) -> QueryResult<i64> {
    use document_numbers as d;
    let last = d::table.find((seller, kind_name(kind), year)).select(d::last).first(conn).optional()?;
    Ok(last.unwrap_or(0))
}

/// Refuses a number of another system that a series of the seller is still to give: of this year or a later
/// one, and above the last one. A year that is over gives none.
///
/// # Errors
/// [`Error::Invalid`] names `number` and says what the last one is.
pub(super) fn must_not_be_ahead(
    conn: &mut PgConnection,
    seller: &Seller,
    number: &str,
    today: NaiveDate,
) -> Result<(), Error> {
    for kind in [DocumentKind::Invoice, DocumentKind::CreditNote] {
        let prefix = prefix(&seller.body.settings, kind);
        let Some((year, place)) = place_of(prefix, number) else { continue };
        let last = last_of(conn, &seller.id, kind, year)?;
        if year < today.year() || place <= last {
            continue;
        }
        let stands = match last {
            0 => format!("which has issued none in {year}"),
            last => format!("the last number of which is {}", numbered(prefix, year, last)),
        };
        let rule = format!(
            "must not lie ahead in the seller's own series `{prefix}{year}-`, {stands}: it will give \
             {number} itself. Give the seller another `invoice_prefix` or `credit_note_prefix`, or import \
             the document under another number"
        );
        return Err(Error::invalid("number", rule));
    }
    Ok(())
}

/// Refuses settings of a seller whose series would come to a number that is issued already.
///
/// # Errors
/// [`Error::Invalid`] names the prefix.
pub(super) fn must_be_free(
    conn: &mut PgConnection,
    seller: &str,
    settings: &SellerSettings,
    today: NaiveDate,
) -> Result<(), Error> {
    for (field, kind) in [
        ("settings.invoice_prefix", DocumentKind::Invoice),
        ("settings.credit_note_prefix", DocumentKind::CreditNote),
    ] {
        let prefix = prefix(settings, kind);
        let issued: Vec<String> = issued_numbers::table
            .filter(issued_numbers::seller_id.eq(seller))
            .filter(diesel::dsl::sql::<Bool>("starts_with(number, ").bind::<Text, _>(prefix).sql(")"))
            .select(issued_numbers::number)
            .load(conn)?;
        for number in issued {
            let Some((year, place)) = place_of(prefix, &number) else { continue };
            if year >= today.year() && place > last_of(conn, seller, kind, year)? {
                let rule =
                    format!("must be another one: {number} is issued, and this series would come to it");
                return Err(Error::invalid(field, rule));
            }
        }
    }
    Ok(())
}

/// Keeps a document as it was issued, with its digest.
pub(super) fn keep(
    conn: &mut PgConnection,
    org_id: i64,
    seller: &str,
    (document, place): (&Document, &SeriesPlace),
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let content = serde_json::to_string(document).map_err(|error| Error::Internal(error.to_string()))?;
    let digest = Sha256::digest(&content).to_vec();
    use issued_numbers as n;
    diesel::insert_into(n::table)
        .values((
            (n::seller_id.eq(seller), n::number.eq(&place.text)),
            (n::org_id.eq(org_id), n::document_id.eq(&document.id)),
        ))
        .execute(conn)
        .map_err(|error| {
            let error = Error::from(error);
            match error.constraint() {
                Some("issued_numbers_pkey") => taken(&place.text),
                _ => error,
            }
        })?;
    diesel::insert_into(t::table)
        .values((
            (t::org_id.eq(org_id), t::document_id.eq(&document.id), t::kind.eq(kind_name(document.kind))),
            (t::seller_id.eq(seller), t::series_year.eq(place.year), t::series_number.eq(place.number)),
            (t::number.eq(&place.text), t::issue_date.eq(document.issue_date)),
            (t::content.eq(content), t::content_sha256.eq(digest), t::created_at.eq(now)),
        ))
        .execute(conn)?;
    Ok(())
}

/// The error for a number that another document has.
pub(super) fn taken(number: &str) -> Error {
    let detail = format!(
        "another document of this seller has the number {number}. If a series comes to it, give the seller \
         another `invoice_prefix` or `credit_note_prefix`"
    );
    Error::conflict("number_taken", detail)
}

/// The org and the id of the document with a number.
pub(super) fn holder(
    conn: &mut PgConnection,
    seller: &str,
    number: &str,
) -> QueryResult<Option<(i64, String)>> {
    use issued_numbers as n;
    n::table.find((seller, number)).select((n::org_id, n::document_id)).first(conn).optional()
}

/// A document as it was issued.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub(super) fn issued(conn: &mut PgConnection, org_id: i64, id: &str) -> Result<Document, Error> {
    let content: Option<String> = t::table.find((org_id, id)).select(t::content).first(conn).optional()?;
    let content = content.ok_or(Error::NotFound("document"))?;
    serde_json::from_str(&content).map_err(|error| Error::Internal(format!("document {id}: {error}")))
}

/// One sentence for each series that has a gap or a number twice, and for each document whose digest is not
/// that of its content; at most `limit`.
pub(crate) fn differences(conn: &mut PgConnection, limit: i64) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Text)]
        difference: String,
    }
    let found: Vec<Found> = diesel::sql_query(
        "WITH series AS (
             SELECT seller_id, kind, series_year AS year, count(*) AS documents,
                 count(DISTINCT series_number) AS numbers, max(series_number) AS highest
             FROM own_documents WHERE series_number > 0 GROUP BY 1, 2, 3)
         SELECT format('the series of %ss of %s in %s has %s documents, %s numbers, the highest is %s, and '
                 || '%s were taken', kind, seller_id, year, coalesce(s.documents, 0),
                 coalesce(s.numbers, 0), coalesce(s.highest, 0), coalesce(n.last, 0)) AS difference
         FROM document_numbers n FULL JOIN series s USING (seller_id, kind, year)
         WHERE (n.last, n.last, n.last) IS DISTINCT FROM (s.documents, s.numbers, s.highest)
         UNION ALL
         SELECT format('document %s (%s): its digest is not that of its content', document_id, number)
         FROM own_documents WHERE content_sha256 <> sha256(convert_to(content, 'UTF8'))
         UNION ALL
         SELECT format('invoice %s: %s, total %s, but its document says %s, %s', i.invoice_id, i.number,
                 i.total, d.content::jsonb ->> 'number', d.content::jsonb #>> '{totals,total}')
         FROM own_invoices i LEFT JOIN own_documents d
             ON (d.org_id, d.document_id) = (i.org_id, i.invoice_id)
         WHERE i.finalized_at IS NOT NULL AND (i.number, i.total::text)
             IS DISTINCT FROM (d.content::jsonb ->> 'number', d.content::jsonb #>> '{totals,total}')
         LIMIT $1",
    )
    .bind::<BigInt, _>(limit)
    .load(conn)?;
    Ok(found.into_iter().map(|found| found.difference).collect())
}
