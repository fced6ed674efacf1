//! Every route, on one page: one line for each handler.
//!
//! To add a route, write its handler and add its line: method and path stand in the handler's
//! `#[utoipa::path]`. The compiler reports a handler without a line as dead code. The server serves this list
//! ([`super::serve`]), and the API's description is made of it ([`super::openapi`]).
//!
//! The order matters twice: a request tries one path after the other, so those that are asked most often come
//! first; and a fixed path comes before a pattern that would match it (`/v1/plans/import` before
//! `/v1/plans/{id}`).

use super::endpoint::endpoints;
use super::{
    audit, battery, billing, closings, exports, health, invoicing, keys, messages, plans, quotas, stripe,
    usage,
};

endpoints! {
    // Asked most often
    stripe::webhook::receive,
    usage::events::post,
    usage::wire::post,
    usage::wire::batch,
    quotas::check::check,
    quotas::check::reserve,
    health::healthz,
    quotas::check::settle,
    quotas::check::release,
    plans::entitlements::show,

    // Probes and metrics
    health::readyz,
    health::metrics,

    // Stripe's deliveries
    stripe::inbox::list,
    stripe::inbox::unfiled,
    stripe::inbox::types,
    stripe::inbox::retry_all,
    stripe::inbox::show,
    stripe::inbox::retry,
    stripe::sync::state,
    stripe::sync::begin,
    stripe::sync::show,
    stripe::sync::drift,

    // Usage through Stripe
    stripe::meters::list,
    stripe::meters::set,
    stripe::meters::remove,
    stripe::meters::dry_run,
    stripe::charges::list,
    stripe::charges::export,
    stripe::charges::totals,
    stripe::charges::retry_all,
    stripe::charges::retry,
    stripe::charges::preview,

    // API keys
    keys::list,
    keys::create,
    keys::import,
    keys::verify,
    keys::rotate,
    keys::update,
    keys::revoke,

    // Audit log
    audit::list,
    audit::export,
    audit::totals,

    // Orgs
    billing::orgs::list,
    billing::orgs::create,
    billing::orgs::show,
    billing::orgs::update,
    billing::orgs::suspend,
    billing::orgs::resume,
    billing::orgs::archive,
    billing::orgs::restore,
    billing::orgs::erase,
    billing::orgs::show_erasure,
    billing::orgs::link,
    billing::orgs::unlink,

    // Plans and local subscriptions
    plans::catalogue::list,
    plans::catalogue::import,
    plans::catalogue::show,
    plans::catalogue::put,
    plans::catalogue::versions,
    plans::catalogue::move_all,
    plans::subscriptions::move_one,
    plans::subscriptions::show,
    plans::subscriptions::start,
    plans::subscriptions::import,
    plans::subscriptions::activate,
    plans::subscriptions::cancel,
    plans::subscriptions::change,
    plans::subscriptions::history,

    // Meters and rate cards
    usage::meters::list,
    usage::meters::create,
    usage::meters::show,
    usage::meters::update,
    usage::meters::archive,
    usage::rates::list,
    usage::rates::create,
    usage::unpriced::rate_usage,

    // Usage corrected
    usage::correct::void,
    usage::correct::amend,
    usage::correct::closed,
    usage::correct::close,

    // Usage read
    usage::reads::daily,
    usage::reads::list_records,
    usage::reads::show_current,
    usage::reads::list_levels,
    usage::breakdown::list,
    usage::unpriced::list,
    usage::uncharged::list,

    // Quotas
    quotas::limits::show_plan,
    quotas::limits::put_plan,
    quotas::limits::list,
    quotas::limits::create,
    quotas::limits::show,
    quotas::limits::update,
    quotas::limits::delete,
    quotas::limits::history,
    quotas::exemptions::list,
    quotas::exemptions::create,
    quotas::exemptions::delete,

    // Messages to the outside
    messages::list::list,
    messages::list::kinds,
    messages::list::show,
    messages::endpoints::list,
    messages::endpoints::create,
    messages::endpoints::show,
    messages::endpoints::update,
    messages::endpoints::delete,
    messages::endpoints::roll_secret,
    messages::deliveries::test,
    messages::deliveries::replay,
    messages::deliveries::list,
    messages::deliveries::attempts,
    messages::deliveries::resend,

    // Batteries
    battery::reads::show,
    battery::reads::list_grants,
    battery::by_hand::grant,
    battery::reads::show_grant,
    battery::by_hand::void,
    battery::by_hand::adjust,
    battery::reads::list_entries,
    battery::reads::show_entry,
    battery::reads::show_statement,
    battery::by_hand::put_settings,
    battery::by_hand::delete_settings,
    exports::battery::export,
    exports::battery::totals,

    // Battery packs, and effects of Stripe's payments on batteries
    battery::packs::list,
    battery::packs::show,
    battery::packs::put,
    battery::effects::list,
    battery::effects::dismiss,
    battery::effects::assign,
    battery::ignored::list,
    battery::ignored::put,
    battery::ignored::delete,

    // Exports
    exports::invoices::export,
    exports::invoices::totals,
    exports::usage::export,
    exports::usage::totals,
    exports::drift::export,
    exports::drift::totals,
    exports::breakdown::export,
    exports::breakdown::totals,

    // Closed months, and journals
    closings::list,
    closings::close,
    closings::show,
    closings::export,
    closings::journals::show,

    // Invoices of our own
    invoicing::apply::apply,
    invoicing::settings::sellers::list,
    invoicing::settings::sellers::show,
    invoicing::settings::sellers::put,
    invoicing::settings::tax_rates::list,
    invoicing::settings::tax_rates::show,
    invoicing::settings::tax_rates::put,
    invoicing::settings::coupons::list,
    invoicing::settings::coupons::show,
    invoicing::settings::coupons::put,
    invoicing::settings::payment_accounts::list,
    invoicing::settings::payment_accounts::show,
    invoicing::settings::payment_accounts::put,
    invoicing::profiles::show,
    invoicing::profiles::put,
    invoicing::profiles::list_coupons,
    invoicing::profiles::put_coupon,
    invoicing::profiles::delete_coupon,
    invoicing::items::list,
    invoicing::items::create,
    invoicing::items::delete,
    invoicing::invoices::create,
    invoicing::invoices::import,
    invoicing::invoices::update,
    invoicing::invoices::delete,
    invoicing::invoices::finalize,
    invoicing::invoices::void,
    invoicing::invoices::write_off,
    invoicing::invoices::preview,
    invoicing::documents::of_invoice,
    invoicing::documents::of_credit_note,
    invoicing::credit_notes::create,
    invoicing::payments::record,
    invoicing::payments::refund,
    invoicing::payments::reverse,
    invoicing::account::show,
    invoicing::account::show_statement,
    invoicing::account::adjust,

    // Mirrors of Stripe's objects, some beside our own
    billing::mirrors::customers::list,
    billing::mirrors::customers::show,
    billing::mirrors::subscriptions::list,
    billing::mirrors::subscriptions::show,
    invoicing::lists::invoices::list,
    invoicing::lists::invoices::show,
    invoicing::lists::payments::list,
    invoicing::lists::payments::show,
    invoicing::lists::refunds::list,
    invoicing::lists::refunds::show,
    billing::mirrors::disputes::list,
    billing::mirrors::disputes::show,
    invoicing::lists::credit_notes::list,
    invoicing::lists::credit_notes::show,
    billing::mirrors::products::list,
    billing::mirrors::products::show,
    billing::mirrors::prices::list,
    billing::mirrors::prices::show,
}
