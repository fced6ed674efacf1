//! What follows when an invoice is paid: the local subscription goes on for the periods that it sold.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde_json::{Value, json};

use super::invoices::InvoiceRow;
use super::{shown, undo};
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::{self, Paid};
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::plans::subscriptions;
use crate::schema::invoiced_periods as p;

/// Extends the org's local subscription by each period whose fee the invoice sold, once, if the invoice is
/// paid. If the subscription is over by now, a new one begins now.
///
/// When the payment is reversed later, the invoice is open again, and the subscription stays as it is: an
/// operator decides.
pub(super) fn follow(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    invoice: &InvoiceRow,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if invoice.status != "paid" {
        return Ok(());
    }
    // What credit notes took back as a whole was not sold, though it asks for nothing any more.
    let taken_back = undo::credited_by_notes(conn, org.org_id, &invoice.invoice_id)?;
    if invoice.total > 0 && taken_back >= invoice.total {
        return Ok(());
    }
    let object = shown::object(conn, (org.org_id, &org.public_id), &invoice.invoice_id)?;
    messages::write(conn, vec![paid_message(org, invoice, object)], now)?;
    let sold = p::table
        .filter(p::org_id.eq(org.org_id).and(p::invoice_id.eq(&invoice.invoice_id)))
        .filter(p::what.eq("fee").and(p::paid_for_at.is_null()));
    let fees: i64 = sold.count().get_result(conn)?;
    if fees == 0 {
        return Ok(());
    }
    diesel::update(sold).set(p::paid_for_at.eq(now)).execute(conn)?;
    let periods = Paid::Periods(u32::try_from(fees).unwrap_or(1));
    let done = local_subscriptions::activate(conn, org.org_id, periods, now)?;
    subscriptions::write_consequences(conn, org, done, now)?;
    Ok(())
}

/// The message that an invoice is paid. One that is open again after a refund may be paid a second time.
fn paid_message(org: &OrgContext, invoice: &InvoiceRow, object: Option<Value>) -> NewMessage {
    let paid_at = invoice.paid_at.map_or(0, |at| at.timestamp_micros());
    NewMessage {
        org_id: org.org_id,
        kind: "invoice.paid",
        dedupe_key: format!("invoice:{}:paid:{paid_at}", invoice.invoice_id),
        data: json!({
            "org": &*org.public_id,
            "invoice": invoice.invoice_id,
            "origin": "own",
            "number": invoice.number,
            "currency": invoice.currency,
            "total": invoice.total,
            "paid_at": invoice.paid_at,
        }),
        object,
    }
}
