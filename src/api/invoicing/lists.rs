//! Lists and look-ups of invoices, payments, refunds and credit notes: Stripe's and our own, side by side.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self, Expand, ExpandWithLines, OriginQuery};
use crate::api::described::FindErrors;
use crate::api::reads::ReadRequest;
use crate::billing::credit_notes::{CreditNote, CreditNoteFilter, CreditNoteView};
use crate::billing::invoices::{Invoice, InvoiceFilter, InvoiceView};
use crate::billing::payments::Payment;
use crate::billing::payments::read::{PaymentFilter, PaymentView};
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::billing::refunds::{Refund, RefundFilter, RefundView};
use crate::error::Error;
use crate::invoicing::reads::{AnyCreditNote, AnyInvoice, AnyPayment, AnyRefund};
use crate::page::{Page, PageQuery};

/// Makes a module with the handlers `list` and `show` of one kind.
macro_rules! both_routes {
    (
        $module:ident: $row:ident as $view:ident or $any:ident, tag $tag:literal, filter $filter:ident,
        #[doc = $list_doc:literal]
        list $list_path:literal,
        #[doc = $show_doc:literal]
        show $show_path:literal, params ($expand:ident), id $id:literal, answer $answer:literal
    ) => {
        pub(crate) mod $module {
            use super::*;

            #[doc = $list_doc]
            #[utoipa::path(
                get, path = $list_path, tag = $tag, params($filter, Owners, OriginQuery, Basics, PageQuery),
                security(("key" = ["billing:read"])),
                responses((status = 200, description = "A page", body = Page<$view>), FindErrors)
            )]
            pub(crate) async fn list(read: ReadRequest) -> Result<HttpResponse, Error> {
                read::list_both::<$row>(read).await
            }

            #[doc = $show_doc]
            #[utoipa::path(
                get, path = $show_path, tag = $tag,
                params(("id" = String, Path, description = $id), $expand, RealmQuery),
                security(("key" = ["billing:read"])),
                responses((status = 200, description = $answer, body = $any), FindErrors)
            )]
            pub(crate) async fn show(
                read: ReadRequest,
                id: web::Path<String>,
            ) -> Result<HttpResponse, Error> {
                read::show_both::<$row>(read, id).await
            }
        }
    };
}

both_routes! {
    invoices: Invoice as InvoiceView or AnyInvoice, tag "invoices", filter InvoiceFilter,
    /// Lists invoices, newest first: Stripe's and our own.
    list "/v1/invoices",
    /// Shows an invoice. One of our own has more fields, and its lines.
    show "/v1/invoices/{id}", params (ExpandWithLines), id "Stripe's id, or `inv_…`", answer "The invoice"
}

both_routes! {
    payments: Payment as PaymentView or AnyPayment, tag "payments", filter PaymentFilter,
    /// Lists payments, newest first: Stripe's and our own.
    list "/v1/payments",
    /// Shows a payment. One of our own has more fields.
    show "/v1/payments/{id}", params (Expand), id "Stripe's id, or `pay_…`", answer "The payment"
}

both_routes! {
    refunds: Refund as RefundView or AnyRefund, tag "refunds", filter RefundFilter,
    /// Lists refunds, newest first: Stripe's and our own.
    list "/v1/refunds",
    /// Shows a refund. One of our own has more fields.
    show "/v1/refunds/{id}", params (Expand), id "Stripe's id, or `rfd_…`", answer "The refund"
}

both_routes! {
    credit_notes: CreditNote as CreditNoteView or AnyCreditNote, tag "credit_notes", filter CreditNoteFilter,
    /// Lists credit notes, newest first: Stripe's and our own.
    list "/v1/credit_notes",
    /// Shows a credit note. One of our own has more fields, and its lines.
    show "/v1/credit_notes/{id}", params (ExpandWithLines), id "`cn_…`", answer "The credit note"
}
