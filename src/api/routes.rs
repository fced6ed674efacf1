//! Every route, on one page.

mod place;

use actix_web::web::{ServiceConfig, redirect, route};
use actix_web::{HttpRequest, HttpResponse};

use self::place::at;
use super::{battery, billing, exports, health, keys, openapi, plans, quotas, stripe, usage};
use crate::error::Error;

/// Registers all routes.
pub fn all(config: &mut ServiceConfig) {
    config
        // Asked most often: a request tries one route after the other, and patterns last
        .service(at("/webhooks/stripe").post(stripe::webhook::receive))
        .service(at("/v1/usage").post(usage::events::post))
        .service(at("/api/v1/events").post(usage::wire::post))
        .service(at("/api/v1/events/batch").post(usage::wire::batch))
        .service(at("/v1/quota/check").post(quotas::check::check))
        .service(at("/v1/quota/reserve").post(quotas::check::reserve))
        .service(at("/healthz").get(health::healthz))
        .service(at("/v1/quota/{id}/settle").post(quotas::check::settle))
        .service(at("/v1/quota/{id}/release").post(quotas::check::release))
        .service(at("/v1/orgs/{id}/entitlements").get(plans::entitlements::show))
        // Probes and metrics
        .service(at("/readyz").get(health::readyz))
        .service(at("/metrics").get(health::metrics))
        // Stripe
        .service(at("/v1/stripe/inbox").get(stripe::inbox::list))
        .service(at("/v1/stripe/inbox/unfiled").get(stripe::inbox::unfiled))
        .service(at("/v1/stripe/inbox/types").get(stripe::inbox::types))
        .service(at("/v1/stripe/inbox/retry").post(stripe::inbox::retry_all))
        .service(at("/v1/stripe/inbox/{inbox_id}").get(stripe::inbox::show))
        .service(at("/v1/stripe/inbox/{inbox_id}/retry").post(stripe::inbox::retry))
        // Keys
        .service(at("/v1/keys").get(keys::list).post(keys::create))
        .service(at("/v1/keys/{id}").delete(keys::revoke))
        // Orgs
        .service(at("/v1/orgs").get(billing::orgs::list).post(billing::orgs::create))
        .service(at("/v1/orgs/{id}").get(billing::orgs::show).patch(billing::orgs::update))
        .service(
            at("/v1/orgs/{id}/stripe_customers/{customer_id}")
                .put(billing::orgs::link)
                .delete(billing::orgs::unlink),
        )
        // Plans, local subscriptions
        .service(at("/v1/plans").get(plans::catalogue::list))
        .service(at("/v1/plans/import").post(plans::catalogue::import))
        .service(at("/v1/plans/{id}").get(plans::catalogue::show).put(plans::catalogue::put))
        .service(at("/v1/plans/{id}/versions").get(plans::catalogue::versions))
        .service(at("/v1/plans/{id}/move").post(plans::catalogue::move_all))
        .service(at("/v1/subscriptions/{id}/move").post(plans::subscriptions::move_one))
        .service(
            at("/v1/orgs/{id}/subscription")
                .get(plans::subscriptions::show)
                .post(plans::subscriptions::start),
        )
        .service(at("/v1/orgs/{id}/subscription/activate").post(plans::subscriptions::activate))
        .service(at("/v1/orgs/{id}/subscription/cancel").post(plans::subscriptions::cancel))
        .service(at("/v1/orgs/{id}/subscription/change").post(plans::subscriptions::change))
        .service(at("/v1/orgs/{id}/subscriptions").get(plans::subscriptions::history))
        // Meters and rate cards
        .service(at("/v1/meters").get(usage::meters::list).post(usage::meters::create))
        .service(
            at("/v1/meters/{key}")
                .get(usage::meters::show)
                .patch(usage::meters::update)
                .delete(usage::meters::archive),
        )
        .service(at("/v1/meters/{key}/rate_cards").get(usage::rates::list).post(usage::rates::create))
        .service(at("/v1/meters/{key}/rate_usage").post(usage::unpriced::rate_usage))
        // Usage, taken back
        .service(at("/v1/usage/void").post(usage::correct::void))
        .service(at("/v1/usage/amend").post(usage::correct::amend))
        .service(at("/v1/usage/closings").get(usage::correct::closed).post(usage::correct::close))
        // Usage as it was counted
        .service(at("/v1/usage/daily").get(usage::reads::daily))
        .service(at("/v1/usage/records").get(usage::reads::list_records))
        .service(at("/v1/usage/current").get(usage::reads::show_current))
        .service(at("/v1/usage/levels").get(usage::reads::list_levels))
        .service(at("/v1/usage/unpriced").get(usage::unpriced::list))
        // Quotas
        .service(at("/v1/plans/{id}/quotas").get(quotas::limits::show_plan).put(quotas::limits::put_plan))
        .service(at("/v1/quotas").get(quotas::limits::list).post(quotas::limits::create))
        .service(
            at("/v1/quotas/{id}")
                .get(quotas::limits::show)
                .patch(quotas::limits::update)
                .delete(quotas::limits::delete),
        )
        .service(at("/v1/quotas/{id}/history").get(quotas::limits::history))
        .service(at("/v1/quota_exemptions").get(quotas::exemptions::list).post(quotas::exemptions::create))
        .service(at("/v1/quota_exemptions/{id}").delete(quotas::exemptions::delete))
        .service(at("/v1/messages").get(quotas::messages::list))
        // Batteries
        .service(at("/v1/battery").get(battery::reads::show))
        .service(at("/v1/battery/grants").get(battery::reads::list_grants).post(battery::by_hand::grant))
        .service(at("/v1/battery/grants/{id}").get(battery::reads::show_grant))
        .service(at("/v1/battery/grants/{id}/void").post(battery::by_hand::void))
        .service(at("/v1/battery/adjustments").post(battery::by_hand::adjust))
        .service(at("/v1/battery/entries").get(battery::reads::list_entries))
        .service(at("/v1/battery/entries/{sequence}").get(battery::reads::show_entry))
        .service(at("/v1/battery/statement").get(battery::reads::show_statement))
        .service(
            at("/v1/battery/settings/{org}")
                .put(battery::by_hand::put_settings)
                .delete(battery::by_hand::delete_settings),
        )
        .service(at("/v1/battery/export").get(exports::battery::export))
        .service(at("/v1/battery/export/totals").get(exports::battery::totals))
        // Batteries: packs, and effects of Stripe's payments that wait
        .service(at("/v1/battery/packs").get(battery::packs::list))
        .service(at("/v1/battery/packs/{id}").get(battery::packs::show).put(battery::packs::put))
        .service(at("/v1/battery/effects/waiting").get(battery::effects::list))
        .service(at("/v1/battery/effects/waiting/{id}/dismiss").post(battery::effects::dismiss))
        .service(at("/v1/battery/effects/waiting/{id}/assign").post(battery::effects::assign))
        .service(at("/v1/battery/effects/ignored").get(battery::ignored::list))
        .service(
            at("/v1/battery/effects/ignored/{kind}/{id}")
                .put(battery::ignored::put)
                .delete(battery::ignored::delete),
        )
        // Exports
        .service(at("/v1/invoices/export").get(exports::invoices::export))
        .service(at("/v1/invoices/export/totals").get(exports::invoices::totals))
        // What Stripe said, for finance
        .service(at("/v1/customers").get(billing::customers::list))
        .service(at("/v1/customers/{id}").get(billing::customers::show))
        .service(at("/v1/subscriptions").get(billing::subscriptions::list))
        .service(at("/v1/subscriptions/{id}").get(billing::subscriptions::show))
        .service(at("/v1/invoices").get(billing::invoices::list))
        .service(at("/v1/invoices/{id}").get(billing::invoices::show))
        .service(at("/v1/payments").get(billing::payments::list))
        .service(at("/v1/payments/{id}").get(billing::payments::show))
        .service(at("/v1/refunds").get(billing::refunds::list))
        .service(at("/v1/refunds/{id}").get(billing::refunds::show))
        .service(at("/v1/disputes").get(billing::disputes::list))
        .service(at("/v1/disputes/{id}").get(billing::disputes::show))
        .service(at("/v1/credit_notes").get(billing::credit_notes::list))
        .service(at("/v1/credit_notes/{id}").get(billing::credit_notes::show))
        .service(at("/v1/products").get(billing::products::list))
        .service(at("/v1/products/{id}").get(billing::products::show))
        .service(at("/v1/prices").get(billing::prices::list))
        .service(at("/v1/prices/{id}").get(billing::prices::show))
        // The API's own description
        .service(at("/openapi.json").get(openapi::json))
        .service(at("/docs").get(openapi::page))
        .service(redirect("/", "/docs"))
        .default_service(route().to(nowhere));
}

async fn nowhere(_: HttpRequest) -> Result<HttpResponse, Error> {
    Err(Error::NoRoute("there is no such route: /docs lists them"))
}
