//! What operators keep for all invoices: `/v1/sellers`, `/v1/tax_rates`, `/v1/coupons`,
//! `/v1/payment_accounts`. Keys of the platform only.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::error::Error;
use crate::invoicing::coupons::{Coupon, CouponBody};
use crate::invoicing::payment_accounts::{PaymentAccount, PaymentAccountBody};
use crate::invoicing::sellers::{Seller, SellerBody};
use crate::invoicing::tax_rates::{TaxRate, TaxRateBody};
use crate::page::{Page, PageQuery};

/// Makes a module with the handlers `list`, `show` and `put` of one kind. `key`: the field that names one.
macro_rules! setting_routes {
    (
        $module:ident: $view:ident of $body:ident, key $key:ident $name:literal, $named:literal,
        action $action:literal,
        #[doc = $list_doc:literal]
        list $list_path:literal,
        #[doc = $show_doc:literal]
        show $path:literal,
        $(#[doc = $put_doc:literal])+
        put
    ) => {
        pub(crate) mod $module {
            use super::*;
            use crate::invoicing::$module as domain;

            #[doc = $list_doc]
            #[utoipa::path(
                get, path = $list_path, tag = "invoicing", params(PageQuery),
                security(("key" = ["billing:read"])),
                responses((status = 200, description = "A page", body = Page<$view>), ReadErrors)
            )]
            pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
                read.principal.require_platform(Scope::BillingRead)?;
                let page = read.take_page::<String>(stringify!($module))?;
                read.list(page, |row: &$view| row.$key.clone(), move |conn, page| {
                    let mut rows = domain::list(conn)?;
                    rows.retain(|row| page.after.as_ref().is_none_or(|after| row.$key > *after));
                    rows.truncate(usize::try_from(page.to_fetch()).unwrap_or(usize::MAX));
                    Ok(rows)
                })
                .await
            }

            #[doc = $show_doc]
            #[utoipa::path(
                get, path = $path, tag = "invoicing",
                params(($name = String, Path, description = $named)),
                security(("key" = ["billing:read"])),
                responses((status = 200, description = "It", body = $view), FindErrors)
            )]
            pub(crate) async fn show(
                read: ReadRequest,
                $key: web::Path<String>,
            ) -> Result<HttpResponse, Error> {
                read.principal.require_platform(Scope::BillingRead)?;
                read.show(move |conn| domain::find(conn, &$key)).await
            }

            $(#[doc = $put_doc])+
            #[utoipa::path(
                put, path = $path, tag = "invoicing",
                params(($name = String, Path, description = $named), IdempotencyKey),
                request_body = $body, security(("key" = ["billing:write"])),
                responses((status = 200, description = "As it is now", body = $view), CommandErrors)
            )]
            pub(crate) async fn put(
                command: Command,
                $key: web::Path<String>,
            ) -> Result<HttpResponse, Error> {
                command.principal.require_platform(Scope::BillingWrite)?;
                let body: $body = command.read()?;
                command
                    .run(move |conn, now| {
                        let kept = domain::put(conn, &$key, &body, now)?;
                        let (action, target) = ($action, $key.to_string());
                        let audit = AuditEntry { org_id: PLATFORM, action, target, detail: json!(body) };
                        Answer::new(StatusCode::OK, &kept, audit)
                    })
                    .await
            }
        }
    };
}

setting_routes! {
    sellers: Seller of SellerBody, key id "id", "Key of the seller: a-z, 0-9, `-`, `_`, `.`",
    action "seller.put",
    /// Lists sellers by key: the legal entities that issue invoices.
    list "/v1/sellers",
    /// Shows a seller.
    show "/v1/sellers/{id}",
    /// Makes a seller, or replaces it.
    ///
    /// Finalised documents keep what they say; drafts and later documents say the new.
    put
}

setting_routes! {
    tax_rates: TaxRate of TaxRateBody, key id "id", "Key of the rate: a-z, 0-9, `-`, `_`, `.`",
    action "tax_rate.put",
    /// Lists tax rates by key.
    list "/v1/tax_rates",
    /// Shows a tax rate.
    show "/v1/tax_rates/{id}",
    /// Makes a tax rate, or replaces it.
    ///
    /// Finalised documents keep the rate that they were issued with.
    put
}

setting_routes! {
    coupons: Coupon of CouponBody, key code "code", "Its code: 1 to 50 visible ASCII characters",
    action "coupon.put",
    /// Lists coupons by code.
    list "/v1/coupons",
    /// Shows a coupon, with the number of invoices that used it.
    show "/v1/coupons/{code}",
    /// Makes a coupon, or replaces it. Its uses stay.
    put
}

setting_routes! {
    payment_accounts: PaymentAccount of PaymentAccountBody, key id "id",
    "Key of the account: a-z, 0-9, `-`, `_`, `.`",
    action "payment_account.put",
    /// Lists the accounts of sellers that payments arrive on, by key.
    list "/v1/payment_accounts",
    /// Shows a payment account.
    show "/v1/payment_accounts/{id}",
    /// Makes a payment account, or replaces it.
    put
}
