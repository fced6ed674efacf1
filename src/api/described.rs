//! Parts of the description that many routes have in common: error answers, and the header of commands.

use std::collections::BTreeMap;

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, PartialSchema};

use crate::error::Problem;

/// The header that makes a command safe to repeat.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyKey {
    /// Any text of 1 to 255 visible ASCII characters. A repeat with the same key and request gets the first
    /// answer again.
    #[param(
        rename = "Idempotency-Key",
        required = false,
        min_length = 1,
        max_length = 255,
        pattern = r"^[!-~]+$"
    )]
    #[allow(dead_code, reason = "describes a header")]
    idempotency_key: Option<String>,
}

/// The file of an export, in one of its formats.
pub struct ExportFile;

impl IntoResponses for ExportFile {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let header = |meaning: &str| {
            HeaderBuilder::new().schema(Some(String::schema())).description(Some(meaning)).build()
        };
        let totals = "As the route of the same name with `/totals` answers, of the rows in this file; \
            with very many groups only `of` and `rows`";
        let formats = [
            "text/csv",
            "application/x-ndjson",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "application/vnd.apache.parquet",
        ];
        let file = ResponseBuilder::new()
            .description("The rows")
            .header("Coulomb-Control-Totals", header(totals))
            .header("Content-Disposition", header("A file name"));
        let content = || ContentBuilder::new().schema(Some(String::schema())).build();
        let file = formats.into_iter().fold(file, |file, format| file.content(format, content()));
        BTreeMap::from([("200".to_owned(), file.build().into())])
    }
}

macro_rules! errors {
    ($(#[doc = $doc:literal])+ $name:ident: $($status:literal $variant:ident $what:literal),+) => {
        $(#[doc = $doc])+
        #[derive(IntoResponses)]
        #[allow(dead_code, reason = "describes answers")]
        pub enum $name { $(
            #[doc = $what]
            #[response(status = $status, description = $what, content_type = "application/problem+json")]
            $variant(#[to_schema] Problem),
        )+ }
    };
}

errors!(
    /// Errors of a list.
    ReadErrors:
    400 Invalid "A parameter breaks a rule",
    401 Unauthorized "No valid key",
    403 Forbidden "The key lacks the scope",
    429 Limited "Over a limit of requests",
    503 Busy "Overload, or the database cannot be reached: try again"
);
errors!(
    /// Errors of a look-up.
    FindErrors:
    400 Invalid "A parameter breaks a rule",
    401 Unauthorized "No valid key",
    403 Forbidden "The key lacks the scope",
    404 NotFound "It does not exist, or is not yours",
    429 Limited "Over a limit of requests",
    503 Busy "Overload, or the database cannot be reached: try again"
);
errors!(
    /// Errors of a command.
    CommandErrors:
    400 Invalid "The request breaks a rule",
    401 Unauthorized "No valid key",
    403 Forbidden "The key lacks the scope",
    404 NotFound "It does not exist, or is not yours",
    408 TooSlow "The body came too slowly",
    409 Conflict "It conflicts with what is stored, or the Idempotency-Key was used for another request",
    413 TooLarge "The body is over the limit",
    429 Limited "Over a limit of requests",
    503 Busy "Overload, or the database cannot be reached: try again"
);
errors!(
    /// Errors of a request with a body that changes nothing.
    LimitedErrors:
    400 Invalid "The request breaks a rule",
    401 Unauthorized "No valid key",
    403 Forbidden "The key lacks the scope",
    408 TooSlow "The body came too slowly",
    413 TooLarge "The body is over the limit",
    429 Limited "Over a limit of requests",
    503 Busy "Overload, or the database cannot be reached: try again"
);
