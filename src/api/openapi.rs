//! The API's description, made of the handlers of [`super::routes`].

use utoipa::openapi::OpenApi as Description;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::endpoint::operations;
use super::exports::columns::Columns;
use super::routes::ENDPOINTS;
use crate::{api, battery, billing, metering};

/// The parts of the description that are not handlers.
#[derive(OpenApi)]
#[openapi(
    info(title = "Coulomb",
    description = "Billing and metering beside one PostgreSQL. Send `Authorization: Bearer clb_live_…`."),
    // utoipa collects no schemas from query parameters, so these are named here.
    components(schemas(
        crate::time::Day,
        crate::time::Moment,
        api::usage::events::Results,
        battery::effects::ignored::IgnoredKind,
        billing::acting_realms::ShownRealms,
        billing::read::ListPart,
        billing::read::Origin,
        api::invoicing::documents::Format,
        api::invoicing::documents::Profile,
        api::billing::read::Part,
        api::billing::read::PartWithLines,
        api::usage::reads::Format,
        metering::rates::PriceBy,
        api::battery::reads::Format,
        battery::entries::EntryKind,
        battery::grants::GrantSource,
        battery::grants::GrantState,
    ))
)]
struct Frame;

/// The description as JSON.
#[must_use]
pub fn document() -> String {
    let mut api = Frame::openapi();
    for endpoint in ENDPOINTS {
        api.merge((endpoint.describe)());
    }
    let modifiers: [&dyn Modify; 3] = [&ApiKey, &Columns, &OperationIds];
    modifiers.iter().for_each(|modifier| modifier.modify(&mut api));
    api.to_pretty_json().unwrap_or_default()
}

/// Adds the API key, by which callers show who they are.
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, api: &mut Description) {
        let key = SecurityScheme::Http(
            Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("clb_live_…").build(),
        );
        api.components.get_or_insert_default().add_security_scheme("key", key);
    }
}

/// Names every operation by its method and path. utoipa would take the handler's name, but many modules have
/// a `list`, and these ids must be unique.
struct OperationIds;

impl Modify for OperationIds {
    fn modify(&self, api: &mut Description) {
        for (path, item) in &mut api.paths.paths {
            let place = path.trim_start_matches("/v1").replace(['/', '.', '{', '}'], " ");
            let place = place.split_whitespace().collect::<Vec<_>>().join("_");
            for (method, operation) in operations(item) {
                operation.operation_id = Some(format!("{}_{place}", method.as_str().to_lowercase()));
            }
        }
    }
}
