//! Every route, on one page.

use actix_web::web::{ServiceConfig, delete, get, patch, post, put, resource, route};
use actix_web::{HttpRequest, HttpResponse};

use crate::error::Error;
use crate::{auth, battery, billing, export, health, openapi, plans, quota, stripe, usage};

/// Registers all routes.
pub fn all(config: &mut ServiceConfig) {
    config
        // Asked most often: a request tries one route after the other, and patterns last
        .service(resource("/webhooks/stripe").route(post().to(stripe::http::receive)))
        .service(resource("/v1/usage").route(post().to(usage::http::post)))
        .service(resource("/api/v1/events").route(post().to(usage::wire_http::post)))
        .service(resource("/api/v1/events/batch").route(post().to(usage::wire_http::batch)))
        .service(resource("/v1/quota/check").route(post().to(quota::check_http::check)))
        .service(resource("/v1/quota/reserve").route(post().to(quota::check_http::reserve)))
        .service(resource("/healthz").route(get().to(health::healthz)))
        .service(resource("/v1/quota/{id}/settle").route(post().to(quota::check_http::settle)))
        .service(resource("/v1/quota/{id}/release").route(post().to(quota::check_http::release)))
        .service(resource("/v1/orgs/{id}/entitlements").route(get().to(plans::entitlements_http::show)))
        // Probes and metrics
        .service(resource("/readyz").route(get().to(health::readyz)))
        .service(resource("/metrics").route(get().to(health::metrics)))
        // Stripe
        .service(resource("/v1/stripe/inbox").route(get().to(stripe::admin::list)))
        .service(resource("/v1/stripe/inbox/unfiled").route(get().to(stripe::admin::unfiled)))
        .service(resource("/v1/stripe/inbox/types").route(get().to(stripe::admin::types)))
        .service(resource("/v1/stripe/inbox/retry").route(post().to(stripe::admin::retry_all)))
        .service(resource("/v1/stripe/inbox/{inbox_id}").route(get().to(stripe::admin::show)))
        .service(resource("/v1/stripe/inbox/{inbox_id}/retry").route(post().to(stripe::admin::retry)))
        // Keys
        .service(resource("/v1/keys").route(get().to(auth::http::list)).route(post().to(auth::http::create)))
        .service(resource("/v1/keys/{id}").route(delete().to(auth::http::revoke)))
        // Orgs
        .service(
            resource("/v1/orgs")
                .route(get().to(billing::orgs_http::list))
                .route(post().to(billing::orgs_http::create)),
        )
        .service(
            resource("/v1/orgs/{id}")
                .route(get().to(billing::orgs_http::show))
                .route(patch().to(billing::orgs_http::update)),
        )
        .service(
            resource("/v1/orgs/{id}/stripe_customers/{customer_id}")
                .route(put().to(billing::orgs_http::link))
                .route(delete().to(billing::orgs_http::unlink)),
        )
        // Plans, local subscriptions
        .service(resource("/v1/plans").route(get().to(plans::http::list)))
        .service(resource("/v1/plans/import").route(post().to(plans::http::import)))
        .service(
            resource("/v1/plans/{id}").route(get().to(plans::http::show)).route(put().to(plans::http::put)),
        )
        .service(resource("/v1/plans/{id}/versions").route(get().to(plans::http::versions)))
        .service(resource("/v1/plans/{id}/move").route(post().to(plans::http::move_all)))
        .service(
            resource("/v1/subscriptions/{id}/move").route(post().to(plans::subscriptions_http::move_one)),
        )
        .service(
            resource("/v1/orgs/{id}/subscription")
                .route(get().to(plans::subscriptions_http::show))
                .route(post().to(plans::subscriptions_http::start)),
        )
        .service(
            resource("/v1/orgs/{id}/subscription/activate")
                .route(post().to(plans::subscriptions_http::activate)),
        )
        .service(
            resource("/v1/orgs/{id}/subscription/cancel").route(post().to(plans::subscriptions_http::cancel)),
        )
        .service(
            resource("/v1/orgs/{id}/subscription/change").route(post().to(plans::subscriptions_http::change)),
        )
        .service(resource("/v1/orgs/{id}/subscriptions").route(get().to(plans::subscriptions_http::history)))
        // Meters and rate cards
        .service(
            resource("/v1/meters")
                .route(get().to(usage::meters_http::list))
                .route(post().to(usage::meters_http::create)),
        )
        .service(
            resource("/v1/meters/{key}")
                .route(get().to(usage::meters_http::show))
                .route(patch().to(usage::meters_http::update))
                .route(delete().to(usage::meters_http::archive)),
        )
        .service(
            resource("/v1/meters/{key}/rate_cards")
                .route(get().to(usage::rates_http::list))
                .route(post().to(usage::rates_http::create)),
        )
        // Usage, taken back
        .service(resource("/v1/usage/void").route(post().to(usage::correct_http::void)))
        .service(resource("/v1/usage/amend").route(post().to(usage::correct_http::amend)))
        .service(
            resource("/v1/usage/closings")
                .route(get().to(usage::correct_http::closed))
                .route(post().to(usage::correct_http::close)),
        )
        // Usage as it was counted
        .service(resource("/v1/usage/daily").route(get().to(usage::reads_http::daily)))
        .service(resource("/v1/usage/records").route(get().to(usage::reads_http::list_records)))
        .service(resource("/v1/usage/current").route(get().to(usage::reads_http::show_current)))
        // Quotas
        .service(
            resource("/v1/plans/{id}/quotas")
                .route(get().to(quota::quotas_http::show_plan))
                .route(put().to(quota::quotas_http::put_plan)),
        )
        .service(
            resource("/v1/quotas")
                .route(get().to(quota::quotas_http::list))
                .route(post().to(quota::quotas_http::create)),
        )
        .service(
            resource("/v1/quotas/{id}")
                .route(get().to(quota::quotas_http::show))
                .route(patch().to(quota::quotas_http::update))
                .route(delete().to(quota::quotas_http::delete)),
        )
        .service(resource("/v1/quotas/{id}/history").route(get().to(quota::quotas_http::history)))
        .service(
            resource("/v1/quota_exemptions")
                .route(get().to(quota::exemptions_http::list))
                .route(post().to(quota::exemptions_http::create)),
        )
        .service(resource("/v1/quota_exemptions/{id}").route(delete().to(quota::exemptions_http::delete)))
        .service(resource("/v1/messages").route(get().to(quota::messages_http::list)))
        // Batteries
        .service(resource("/v1/battery").route(get().to(battery::reads_http::show)))
        .service(
            resource("/v1/battery/grants")
                .route(get().to(battery::reads_http::list_grants))
                .route(post().to(battery::by_hand_http::grant)),
        )
        .service(resource("/v1/battery/grants/{id}").route(get().to(battery::reads_http::show_grant)))
        .service(resource("/v1/battery/grants/{id}/void").route(post().to(battery::by_hand_http::void)))
        .service(resource("/v1/battery/adjustments").route(post().to(battery::by_hand_http::adjust)))
        .service(resource("/v1/battery/entries").route(get().to(battery::reads_http::list_entries)))
        .service(resource("/v1/battery/entries/{sequence}").route(get().to(battery::reads_http::show_entry)))
        .service(resource("/v1/battery/statement").route(get().to(battery::reads_http::show_statement)))
        .service(
            resource("/v1/battery/settings/{org}")
                .route(put().to(battery::by_hand_http::put_settings))
                .route(delete().to(battery::by_hand_http::delete_settings)),
        )
        .service(resource("/v1/battery/export").route(get().to(export::battery_http::export)))
        .service(resource("/v1/battery/export/totals").route(get().to(export::battery_http::totals)))
        // Batteries: packs, and effects of Stripe's payments that wait
        .service(resource("/v1/battery/packs").route(get().to(battery::packs_http::list)))
        .service(
            resource("/v1/battery/packs/{id}")
                .route(get().to(battery::packs_http::show))
                .route(put().to(battery::packs_http::put)),
        )
        .service(resource("/v1/battery/effects/waiting").route(get().to(battery::effects_http::list)))
        .service(
            resource("/v1/battery/effects/waiting/{id}/dismiss")
                .route(post().to(battery::effects_http::dismiss)),
        )
        .service(
            resource("/v1/battery/effects/waiting/{id}/assign")
                .route(post().to(battery::effects_http::assign)),
        )
        // Exports
        .service(resource("/v1/invoices/export").route(get().to(export::http::export)))
        .service(resource("/v1/invoices/export/totals").route(get().to(export::http::totals)))
        // What Stripe said, for finance
        .service(resource("/v1/customers").route(get().to(billing::customers_http::list)))
        .service(resource("/v1/customers/{id}").route(get().to(billing::customers_http::show)))
        .service(resource("/v1/subscriptions").route(get().to(billing::subscriptions_http::list)))
        .service(resource("/v1/subscriptions/{id}").route(get().to(billing::subscriptions_http::show)))
        .service(resource("/v1/invoices").route(get().to(billing::invoices_http::list)))
        .service(resource("/v1/invoices/{id}").route(get().to(billing::invoices_http::show)))
        .service(resource("/v1/payments").route(get().to(billing::payments_http::list)))
        .service(resource("/v1/payments/{id}").route(get().to(billing::payments_http::show)))
        .service(resource("/v1/refunds").route(get().to(billing::refunds_http::list)))
        .service(resource("/v1/refunds/{id}").route(get().to(billing::refunds_http::show)))
        .service(resource("/v1/disputes").route(get().to(billing::disputes_http::list)))
        .service(resource("/v1/disputes/{id}").route(get().to(billing::disputes_http::show)))
        .service(resource("/v1/credit_notes").route(get().to(billing::credit_notes_http::list)))
        .service(resource("/v1/credit_notes/{id}").route(get().to(billing::credit_notes_http::show)))
        .service(resource("/v1/products").route(get().to(billing::products_http::list)))
        .service(resource("/v1/products/{id}").route(get().to(billing::products_http::show)))
        .service(resource("/v1/prices").route(get().to(billing::prices_http::list)))
        .service(resource("/v1/prices/{id}").route(get().to(billing::prices_http::show)))
        // The API's own description
        .service(resource("/openapi.json").route(get().to(openapi::json)))
        .service(resource("/docs").route(get().to(openapi::page)))
        .default_service(route().to(nowhere));
}

async fn nowhere(_: HttpRequest) -> Result<HttpResponse, Error> {
    Err(Error::NoRoute("there is no such route: /docs lists them"))
}
