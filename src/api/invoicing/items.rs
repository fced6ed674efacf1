//! `/v1/orgs/{id}/invoice_items`: lines that somebody adds.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::audit;
use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::invoicing::commands;
use crate::invoicing::lines::{InvoiceItem, ItemBody, ItemKind};
use crate::quantity::{Quantity, QuantityAboveZero, QuantityFromZero};
use crate::time::Moment;

/// The items of an org that wait for an invoice.
#[derive(Debug, Serialize, ToSchema)]
pub struct WaitingItems {
    /// In the order in which they were added.
    pub items: Vec<InvoiceItem>,
}

/// An item to add, and to which invoice.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInvoiceItem {
    /// What it is, in the customer's language.
    #[schema(min_length = 1, max_length = 300)]
    pub description: String,
    /// How many; below 0 it gives back. 1 when left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub quantity: Option<Quantity>,
    /// What is counted, such as `hour`; pieces when left out.
    #[serde(default)]
    pub unit: Option<String>,
    /// Price of `base_quantity` units in major units of the currency, with tax if prices include it.
    #[schema(value_type = QuantityFromZero)]
    pub unit_price: Quantity,
    /// For how many units the price is; 1 when left out.
    #[serde(default)]
    #[schema(value_type = Option<QuantityAboveZero>)]
    pub base_quantity: Option<Quantity>,
    /// Key of the tax rate; that of the org's billing profile when left out.
    #[serde(default)]
    pub tax_rate: Option<String>,
    /// Start of what it charges for.
    #[serde(default)]
    pub from: Option<Moment>,
    /// End of what it charges for, not included.
    #[serde(default)]
    pub to: Option<Moment>,
    /// `item` when left out, or `proration` for a part of a fee.
    #[serde(default)]
    pub kind: Option<ItemKind>,
    /// Currency of its price; that of the invoice, or of the org's billing profile, when left out.
    #[serde(default)]
    pub currency: Option<String>,
    /// The draft that gets it (`inv_…`); the next draft when left out.
    #[serde(default)]
    pub invoice: Option<String>,
}

impl NewInvoiceItem {
    fn line(&self) -> ItemBody {
        let one = Quantity(Decimal::ONE);
        ItemBody {
            description: self.description.clone(),
            quantity: self.quantity.unwrap_or(one),
            unit: self.unit.clone(),
            unit_price: self.unit_price,
            base_quantity: self.base_quantity.unwrap_or(one),
            tax_rate: self.tax_rate.clone(),
            from: self.from,
            to: self.to,
            kind: self.kind.unwrap_or_default(),
        }
    }
}

/// Lists the items of an org that wait for an invoice.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/invoice_items", tag = "invoicing",
    params(("id" = String, Path, description = "Public or external id of the org")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "All of them", body = WaitingItems), FindErrors)
)]
pub(crate) async fn list(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let org = OrgName::must(&read.principal, Some(id.into_inner()), "id")?;
    read.show(move |conn| {
        let org_id = org.row_id(conn)?;
        Ok(WaitingItems { items: commands::waiting_items(conn, org_id)? })
    })
    .await
}

/// Adds a line to a draft, or to the next one.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/invoice_items", tag = "invoicing",
    params(("id" = String, Path, description = "Public or external id of the org"), IdempotencyKey),
    request_body = NewInvoiceItem, security(("key" = ["billing:write"])),
    responses((status = 201, description = "The item", body = InvoiceItem), CommandErrors)
)]
pub(crate) async fn create(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (name, sent): (_, NewInvoiceItem) = (OrgName::of_any(id.into_inner(), "id"), command.read()?);
    let directory = command.directory();
    command
        .run(move |conn, now| {
            let org = name.find(&directory, conn)?;
            let place = (sent.currency.as_deref(), sent.invoice.as_deref());
            let item = commands::add_item(conn, &org, place, &sent.line(), now)?;
            let audit = audit(&org, "invoice_item.create", &item.id, json!(item));
            Answer::new(StatusCode::CREATED, &item, audit)
        })
        .await
}

/// Deletes an item that is on no finalised invoice.
#[utoipa::path(
    delete, path = "/v1/orgs/{id}/invoice_items/{item}", tag = "invoicing",
    params(
        ("id" = String, Path, description = "Public or external id of the org"),
        ("item" = String, Path, description = "`item_…`"),
        IdempotencyKey
    ),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub(crate) async fn delete(
    BodilessCommand(command): BodilessCommand,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, item) = path.into_inner();
    let (name, directory) = (OrgName::of_any(id, "id"), command.directory());
    command
        .run(move |conn, now| {
            let org = name.find(&directory, conn)?;
            commands::delete_item(conn, &org, &item, now)?;
            Ok(Answer::done(audit(&org, "invoice_item.delete", &item, json!({}))))
        })
        .await
}
