//! Credit notes of both origins.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Serialize, Serializer};
use serde_json::json;
use utoipa::ToSchema;

use super::{OwnPage, TwoOrigins, as_one, either_origin, narrowed, when};
use crate::billing::credit_notes::{CreditNote, CreditNoteFilter, CreditNoteLine, CreditNoteView};
use crate::billing::read::{Origin, Position};
use crate::error::Error;
use crate::invoicing::credit_notes::{self, OwnCreditNote};
use crate::schema::{orgs, own_credit_note_lines as l, own_credit_notes as t, own_invoice_lines as il};

either_origin! {
    /// A credit note of either origin.
    AnyCreditNote: CreditNoteView | OwnCreditNoteView
}

/// A credit note of our own as a look-up shows it: the fields of Stripe's credit notes, and its own.
#[derive(Debug, ToSchema)]
pub struct OwnCreditNoteView {
    /// The fields that credit notes of both origins have.
    #[serde(flatten)]
    pub row: CreditNote,
    /// Its own.
    #[serde(flatten)]
    pub own: OwnCreditNote,
    /// Public id of the org.
    pub org: String,
    /// Its lines.
    pub lines: Vec<CreditNoteLine>,
}

impl Serialize for OwnCreditNoteView {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        as_one(to, &[&self.row, &self.own, &json!({ "org": self.org, "lines": self.lines })])
    }
}

#[derive(Queryable)]
struct ListedNote {
    org_id: i64,
    org: String,
    id: String,
    invoice_id: String,
    currency: String,
    number: String,
    reason: String,
    created_at: DateTime<Utc>,
    issue_date: NaiveDate,
    net_total: i64,
    tax_total: i64,
    total: i64,
}

/// The columns of a [`ListedNote`].
macro_rules! listed {
    () => {
        (
            t::org_id,
            orgs::public_id,
            t::credit_note_id,
            t::invoice_id,
            t::currency,
            t::number,
            t::reason,
            t::created_at,
            t::issue_date,
            t::net_total,
            t::tax_total,
            t::total,
        )
    };
}

impl ListedNote {
    /// In the shape of Stripe's credit notes.
    fn row(self, livemode: bool) -> CreditNote {
        CreditNote {
            account: String::new(),
            livemode,
            id: self.id,
            invoice_id: Some(self.invoice_id),
            customer_id: None,
            number: Some(self.number),
            status: Some("issued".to_owned()),
            type_: None,
            reason: Some(self.reason.clone()),
            memo: Some(self.reason),
            currency: Some(self.currency),
            amount: Some(self.total),
            subtotal: Some(self.net_total),
            discount_total: Some(0),
            tax_total: Some(self.tax_total),
            total: Some(self.total),
            out_of_band_amount: None,
            refund_ids: json!([]),
            pdf: None,
            effective_at: Some(self.issue_date.and_time(NaiveTime::MIN).and_utc()),
            voided_at: None,
            lines_complete: true,
            created: Some(self.created_at),
            metadata: json!({}),
            pre_payment_amount: None,
            post_payment_amount: None,
            refund_amount: None,
            balance_amount: None,
        }
    }
}

/// Lines in the shape of Stripe's, by org and credit note.
fn lines(
    conn: &mut PgConnection,
    ids: Vec<&str>,
    livemode: bool,
) -> QueryResult<BTreeMap<(i64, String), Vec<CreditNoteLine>>> {
    type LineRow = (i64, String, i32, i64, i64, String);
    let of_invoice = il::org_id
        .eq(l::org_id)
        .and(il::invoice_id.eq(l::invoice_id))
        .and(il::line_number.eq(l::line_number));
    let found: Vec<LineRow> = l::table
        .inner_join(il::table.on(of_invoice))
        .filter(l::credit_note_id.eq_any(ids))
        .order((l::org_id, l::credit_note_id, l::line_number))
        .select((l::org_id, l::credit_note_id, l::line_number, l::net, l::tax, il::description))
        .load(conn)?;
    let mut lines: BTreeMap<(i64, String), Vec<CreditNoteLine>> = BTreeMap::new();
    for (org_id, note, number, net, tax, description) in found {
        let line = CreditNoteLine {
            account: String::new(),
            livemode,
            credit_note_id: note.clone(),
            line_number: number - 1,
            id: None,
            type_: Some("invoice_line_item".to_owned()),
            invoice_line_id: None,
            amount: Some(net),
            quantity: None,
            description: Some(description),
            unit_amount_decimal: None,
            discount_amount: Some(0),
            tax_amount: Some(tax),
            taxes: None,
        };
        lines.entry((org_id, note)).or_default().push(line);
    }
    Ok(lines)
}

impl TwoOrigins for CreditNote {
    type Any = AnyCreditNote;

    fn expands_lines(filter: &CreditNoteFilter) -> bool {
        !filter.expand.is_empty()
    }

    fn own_page(
        conn: &mut PgConnection,
        page: &OwnPage<'_, CreditNoteFilter>,
    ) -> Result<Vec<(Position, CreditNoteView)>, Error> {
        let filter = page.filter.clone();
        let is_other = filter.status.as_deref().is_some_and(|status| status != "issued");
        if is_other || filter.customer.is_some() {
            return Ok(Vec::new());
        }
        let joined = t::table.inner_join(orgs::table.on(orgs::org_id.eq(t::org_id))).select(listed!());
        let mut query = narrowed!(joined, t, credit_note_id, page);
        when! { query,
            filter.invoice => |id| t::invoice_id.eq(id),
            filter.number => |number| t::number.eq(number),
            filter.currency => |currency| t::currency.eq(currency),
        }
        let found: Vec<ListedNote> = query.load(conn)?;
        let mut lines = match filter.expand.is_empty() {
            true => None,
            false => Some(lines(conn, found.iter().map(|note| &*note.id).collect(), page.livemode)?),
        };
        let view = |note: ListedNote| {
            let position = Position::of_own(note.created_at, &note.id, page.livemode);
            let key = (note.org_id, note.id.clone());
            let lines = lines.as_mut().map(|lines| lines.remove(&key).unwrap_or_default());
            let org = Some(note.org.clone());
            let row = note.row(page.livemode);
            (position, CreditNoteView { row, origin: Origin::Own, org, lines, raw: None })
        };
        Ok(found.into_iter().map(view).collect())
    }

    fn own(
        conn: &mut PgConnection,
        id: &str,
        org: Option<&str>,
        livemode: bool,
    ) -> Result<AnyCreditNote, Error> {
        let joined = t::table.inner_join(orgs::table.on(orgs::org_id.eq(t::org_id))).select(listed!());
        let mut query = joined.filter(t::credit_note_id.eq(id)).into_boxed();
        when! { query, org.map(str::to_owned) => |org| orgs::public_id.eq(org) }
        let found: Option<ListedNote> = query.first(conn).optional()?;
        let found = found.ok_or(Error::NotFound("credit note"))?;
        let own = credit_notes::get(conn, found.org_id, id)?;
        let lines = lines(conn, vec![id], livemode)?.remove(&(found.org_id, id.to_owned()));
        let org = found.org.clone();
        let (row, lines) = (found.row(livemode), lines.unwrap_or_default());
        Ok(AnyCreditNote::Own(Box::new(OwnCreditNoteView { row, own, org, lines })))
    }
}
