//! The routes over mirrors of Stripe's objects: each kind is listed and shown, all in the same way.
//!
//! To show another kind, implement [`Resource`](crate::billing::read::Resource) for its row, add it here, and
//! add its `list` and `show` to [`crate::api::routes`]. Kinds of which there are our own objects, too, are in
//! [`crate::api::invoicing::lists`].

use actix_web::{HttpResponse, web};

use super::read::{self, Expand};
use crate::api::described::{FindErrors, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::billing::catalog::read::{PriceFilter, PriceView, ProductFilter, ProductView};
use crate::billing::catalog::{Price, Product};
use crate::billing::customers::{Customer, CustomerFilter, CustomerView};
use crate::billing::disputes::{Dispute, DisputeFilter, DisputeView};
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::billing::subscriptions::{Subscription, SubscriptionFilter, SubscriptionView};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Makes a module with the handlers `list` and `show` of one kind.
macro_rules! mirror_routes {
    (
        $module:ident: $row:ident as $view:ident, tag $tag:literal,
        #[doc = $list_doc:literal]
        list $list_path:literal, params ($($param:ident),+), errors $errors:ident,
        #[doc = $show_doc:literal]
        show $show_path:literal, params ($expand:ident), answer $answer:literal
    ) => {
        pub(crate) mod $module {
            use super::*;

            #[doc = $list_doc]
            #[utoipa::path(
                get, path = $list_path, tag = $tag, params($($param),+, Basics, PageQuery),
                security(("key" = ["billing:read"])),
                responses((status = 200, description = "A page", body = Page<$view>), $errors)
            )]
            pub(crate) async fn list(read: ReadRequest) -> Result<HttpResponse, Error> {
                read::list::<$row>(read).await
            }

            #[doc = $show_doc]
            #[utoipa::path(
                get, path = $show_path, tag = $tag,
                params(("id" = String, Path, description = "Stripe's id"), $expand, RealmQuery),
                security(("key" = ["billing:read"])),
                responses((status = 200, description = $answer, body = $view), FindErrors)
            )]
            pub(crate) async fn show(
                read: ReadRequest,
                id: web::Path<String>,
            ) -> Result<HttpResponse, Error> {
                read::show::<$row>(read, id).await
            }
        }
    };
}

mirror_routes! {
    customers: Customer as CustomerView, tag "customers",
    /// Lists customers, newest first.
    list "/v1/customers", params (CustomerFilter, Owners), errors FindErrors,
    /// Shows a customer.
    show "/v1/customers/{id}", params (Expand), answer "The customer"
}

mirror_routes! {
    subscriptions: Subscription as SubscriptionView, tag "subscriptions",
    /// Lists subscriptions, newest first, with their items.
    list "/v1/subscriptions", params (SubscriptionFilter, Owners), errors FindErrors,
    /// Shows a subscription.
    show "/v1/subscriptions/{id}", params (Expand), answer "The subscription"
}

mirror_routes! {
    disputes: Dispute as DisputeView, tag "disputes",
    /// Lists disputes, newest first.
    list "/v1/disputes", params (DisputeFilter, Owners), errors FindErrors,
    /// Shows a dispute.
    show "/v1/disputes/{id}", params (Expand), answer "The dispute"
}

mirror_routes! {
    products: Product as ProductView, tag "catalogue",
    /// Lists products, newest first.
    list "/v1/products", params (ProductFilter), errors ReadErrors,
    /// Shows a product.
    show "/v1/products/{id}", params (Expand), answer "The product"
}

mirror_routes! {
    prices: Price as PriceView, tag "catalogue",
    /// Lists prices, newest first.
    list "/v1/prices", params (PriceFilter), errors ReadErrors,
    /// Shows a price.
    show "/v1/prices/{id}", params (Expand), answer "The price"
}
