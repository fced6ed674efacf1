//! Every route, on one page.

mod place;

use actix_web::web::{ServiceConfig, redirect, route};
use actix_web::{HttpRequest, HttpResponse};

use self::place::at;
use crate::error::Error;
use crate::{auth, battery, billing, export, health, openapi, plans, quota, stripe, usage};

/// Registers all routes.
pub fn all(config: &mut ServiceConfig) {
    config
        // Asked most often: a request tries one route after the other, and patterns last
        .service(at("/webhooks/stripe").post(stripe::http::receive))
        .service(at("/v1/usage").post(usage::http::post))
        .service(at("/api/v1/events").post(usage::wire_http::post))
        .service(at("/api/v1/events/batch").post(usage::wire_http::batch))
        .service(at("/v1/quota/check").post(quota::check_http::check))
        .service(at("/v1/quota/reserve").post(quota::check_http::reserve))
        .service(at("/healthz").get(health::healthz))
        .service(at("/v1/quota/{id}/settle").post(quota::check_http::settle))
        .service(at("/v1/quota/{id}/release").post(quota::check_http::release))
        .service(at("/v1/orgs/{id}/entitlements").get(plans::entitlements_http::show))
        // Probes and metrics
        .service(at("/readyz").get(health::readyz))
        .service(at("/metrics").get(health::metrics))
        // Stripe
        .service(at("/v1/stripe/inbox").get(stripe::admin::list))
        .service(at("/v1/stripe/inbox/unfiled").get(stripe::admin::unfiled))
        .service(at("/v1/stripe/inbox/types").get(stripe::admin::types))
        .service(at("/v1/stripe/inbox/retry").post(stripe::admin::retry_all))
        .service(at("/v1/stripe/inbox/{inbox_id}").get(stripe::admin::show))
        .service(at("/v1/stripe/inbox/{inbox_id}/retry").post(stripe::admin::retry))
        // Keys
        .service(at("/v1/keys").get(auth::http::list).post(auth::http::create))
        .service(at("/v1/keys/{id}").delete(auth::http::revoke))
        // Orgs
        .service(at("/v1/orgs").get(billing::orgs_http::list).post(billing::orgs_http::create))
        .service(at("/v1/orgs/{id}").get(billing::orgs_http::show).patch(billing::orgs_http::update))
        .service(
            at("/v1/orgs/{id}/stripe_customers/{customer_id}")
                .put(billing::orgs_http::link)
                .delete(billing::orgs_http::unlink),
        )
        // Plans, local subscriptions
        .service(at("/v1/plans").get(plans::http::list))
        .service(at("/v1/plans/import").post(plans::http::import))
        .service(at("/v1/plans/{id}").get(plans::http::show).put(plans::http::put))
        .service(at("/v1/plans/{id}/versions").get(plans::http::versions))
        .service(at("/v1/plans/{id}/move").post(plans::http::move_all))
        .service(at("/v1/subscriptions/{id}/move").post(plans::subscriptions_http::move_one))
        .service(
            at("/v1/orgs/{id}/subscription")
                .get(plans::subscriptions_http::show)
                .post(plans::subscriptions_http::start),
        )
        .service(at("/v1/orgs/{id}/subscription/activate").post(plans::subscriptions_http::activate))
        .service(at("/v1/orgs/{id}/subscription/cancel").post(plans::subscriptions_http::cancel))
        .service(at("/v1/orgs/{id}/subscription/change").post(plans::subscriptions_http::change))
        .service(at("/v1/orgs/{id}/subscriptions").get(plans::subscriptions_http::history))
        // Meters and rate cards
        .service(at("/v1/meters").get(usage::meters_http::list).post(usage::meters_http::create))
        .service(
            at("/v1/meters/{key}")
                .get(usage::meters_http::show)
                .patch(usage::meters_http::update)
                .delete(usage::meters_http::archive),
        )
        .service(
            at("/v1/meters/{key}/rate_cards").get(usage::rates_http::list).post(usage::rates_http::create),
        )
        .service(at("/v1/meters/{key}/rate_usage").post(usage::unpriced_http::rate_usage))
        // Usage, taken back
        .service(at("/v1/usage/void").post(usage::correct_http::void))
        .service(at("/v1/usage/amend").post(usage::correct_http::amend))
        .service(at("/v1/usage/closings").get(usage::correct_http::closed).post(usage::correct_http::close))
        // Usage as it was counted
        .service(at("/v1/usage/daily").get(usage::reads_http::daily))
        .service(at("/v1/usage/records").get(usage::reads_http::list_records))
        .service(at("/v1/usage/current").get(usage::reads_http::show_current))
        .service(at("/v1/usage/levels").get(usage::reads_http::list_levels))
        .service(at("/v1/usage/unpriced").get(usage::unpriced_http::list))
        // Quotas
        .service(
            at("/v1/plans/{id}/quotas").get(quota::quotas_http::show_plan).put(quota::quotas_http::put_plan),
        )
        .service(at("/v1/quotas").get(quota::quotas_http::list).post(quota::quotas_http::create))
        .service(
            at("/v1/quotas/{id}")
                .get(quota::quotas_http::show)
                .patch(quota::quotas_http::update)
                .delete(quota::quotas_http::delete),
        )
        .service(at("/v1/quotas/{id}/history").get(quota::quotas_http::history))
        .service(
            at("/v1/quota_exemptions").get(quota::exemptions_http::list).post(quota::exemptions_http::create),
        )
        .service(at("/v1/quota_exemptions/{id}").delete(quota::exemptions_http::delete))
        .service(at("/v1/messages").get(quota::messages_http::list))
        // Batteries
        .service(at("/v1/battery").get(battery::reads_http::show))
        .service(
            at("/v1/battery/grants").get(battery::reads_http::list_grants).post(battery::by_hand_http::grant),
        )
        .service(at("/v1/battery/grants/{id}").get(battery::reads_http::show_grant))
        .service(at("/v1/battery/grants/{id}/void").post(battery::by_hand_http::void))
        .service(at("/v1/battery/adjustments").post(battery::by_hand_http::adjust))
        .service(at("/v1/battery/entries").get(battery::reads_http::list_entries))
        .service(at("/v1/battery/entries/{sequence}").get(battery::reads_http::show_entry))
        .service(at("/v1/battery/statement").get(battery::reads_http::show_statement))
        .service(
            at("/v1/battery/settings/{org}")
                .put(battery::by_hand_http::put_settings)
                .delete(battery::by_hand_http::delete_settings),
        )
        .service(at("/v1/battery/export").get(export::battery_http::export))
        .service(at("/v1/battery/export/totals").get(export::battery_http::totals))
        // Batteries: packs, and effects of Stripe's payments that wait
        .service(at("/v1/battery/packs").get(battery::packs_http::list))
        .service(at("/v1/battery/packs/{id}").get(battery::packs_http::show).put(battery::packs_http::put))
        .service(at("/v1/battery/effects/waiting").get(battery::effects_http::list))
        .service(at("/v1/battery/effects/waiting/{id}/dismiss").post(battery::effects_http::dismiss))
        .service(at("/v1/battery/effects/waiting/{id}/assign").post(battery::effects_http::assign))
        .service(at("/v1/battery/effects/ignored").get(battery::ignored_http::list))
        .service(
            at("/v1/battery/effects/ignored/{kind}/{id}")
                .put(battery::ignored_http::put)
                .delete(battery::ignored_http::delete),
        )
        // Exports
        .service(at("/v1/invoices/export").get(export::http::export))
        .service(at("/v1/invoices/export/totals").get(export::http::totals))
        // What Stripe said, for finance
        .service(at("/v1/customers").get(billing::customers_http::list))
        .service(at("/v1/customers/{id}").get(billing::customers_http::show))
        .service(at("/v1/subscriptions").get(billing::subscriptions_http::list))
        .service(at("/v1/subscriptions/{id}").get(billing::subscriptions_http::show))
        .service(at("/v1/invoices").get(billing::invoices_http::list))
        .service(at("/v1/invoices/{id}").get(billing::invoices_http::show))
        .service(at("/v1/payments").get(billing::payments_http::list))
        .service(at("/v1/payments/{id}").get(billing::payments_http::show))
        .service(at("/v1/refunds").get(billing::refunds_http::list))
        .service(at("/v1/refunds/{id}").get(billing::refunds_http::show))
        .service(at("/v1/disputes").get(billing::disputes_http::list))
        .service(at("/v1/disputes/{id}").get(billing::disputes_http::show))
        .service(at("/v1/credit_notes").get(billing::credit_notes_http::list))
        .service(at("/v1/credit_notes/{id}").get(billing::credit_notes_http::show))
        .service(at("/v1/products").get(billing::products_http::list))
        .service(at("/v1/products/{id}").get(billing::products_http::show))
        .service(at("/v1/prices").get(billing::prices_http::list))
        .service(at("/v1/prices/{id}").get(billing::prices_http::show))
        // The API's own description
        .service(at("/openapi.json").get(openapi::json))
        .service(at("/docs").get(openapi::page))
        .service(redirect("/", "/docs"))
        .default_service(route().to(nowhere));
}

async fn nowhere(_: HttpRequest) -> Result<HttpResponse, Error> {
    Err(Error::NoRoute("there is no such route: /docs lists them"))
}
