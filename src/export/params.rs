//! The parameters of an export and their rules, one list for the HTTP query and the command line.

use chrono::{DateTime, NaiveTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::ExportKind;
use super::battery::Entries;
use crate::auth::Principal;
use crate::billing::exports::Kind;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::time::{Day, Moment};

/// Which rows to write, and how. A time is RFC 3339, or a date such as `2026-01-31` for its first
/// instant in UTC.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams, clap::Args)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct ExportParams {
    /// What: invoices, lines (of invoices), payments or refunds; invoices when left out
    #[arg(long, value_name = "KIND")]
    #[param(pattern = "^(invoices|lines|payments|refunds)$")]
    pub of: Option<String>,
    /// csv, jsonl, xlsx or parquet; csv when left out
    #[arg(long)]
    #[param(pattern = "^(csv|jsonl|xlsx|parquet)$")]
    pub format: Option<String>,
    /// Invoices and lines: issued (`finalized_at`) at or after this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub issued_from: Option<String>,
    /// Invoices and lines: issued before this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub issued_before: Option<String>,
    /// Invoices, lines and payments: paid (`paid_at`) at or after this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub paid_from: Option<String>,
    /// Invoices, lines and payments: paid before this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub paid_before: Option<String>,
    /// Made (`created`; for lines their invoice) at or after this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub created_from: Option<String>,
    /// Made before this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub created_before: Option<String>,
    /// Only this status, or several separated by commas; for lines that of their invoice
    #[arg(long)]
    pub status: Option<String>,
    /// Only this currency, such as eur, or several separated by commas
    #[arg(long)]
    #[param(pattern = "^[A-Za-z]{3}(,[A-Za-z]{3})*$")]
    pub currency: Option<String>,
    /// Only the org with this id (`org_…`, or your own id of it)
    #[arg(long)]
    #[param(min_length = 1)]
    pub org: Option<String>,
    /// Only this Stripe customer (`cus_…`)
    #[arg(long)]
    #[param(min_length = 1)]
    pub customer: Option<String>,
    /// Only this connected Stripe account (`acct_…`); when left out, our own and those that act
    #[arg(long)]
    #[param(min_length = 1)]
    pub account: Option<String>,
    /// true: only live mode; false: only test mode; the mode that acts when left out
    #[arg(long)]
    #[param(pattern = "^(true|false)$")]
    pub livemode: Option<String>,
    /// all: of every account and mode that is not named, those that do not act, too
    #[arg(long, value_name = "all")]
    #[param(pattern = "^all$")]
    pub realms: Option<String>,
    /// csv and jsonl: go on after the row with this `id`, the last one that arrived whole (lines:
    /// `invoice_id/line_number`)
    #[arg(long, value_name = "ID")]
    #[param(min_length = 1)]
    pub after: Option<String>,
    /// csv: whether to begin with a line of column names; true when left out
    #[arg(long, value_name = "BOOL")]
    #[param(pattern = "^(true|false)$")]
    pub header: Option<String>,
    /// csv: whether to begin with a byte order mark, for spreadsheets that take the file for Latin-1 without
    /// it; false when left out
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[param(pattern = "^(true|false)$")]
    pub bom: Option<String>,
}

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180: commas, CRLF, quotes where needed, UTF-8.
    Csv,
    /// One JSON object per line.
    Jsonl,
    Xlsx,
    Parquet,
}

impl Format {
    const ALL: [Self; 4] = [Self::Csv, Self::Jsonl, Self::Xlsx, Self::Parquet];

    /// Its name, which is also the file name's extension.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Xlsx => "xlsx",
            Self::Parquet => "parquet",
        }
    }
}

/// A half-open period; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExportRange {
    /// The first instant of the period.
    pub(super) from: Option<DateTime<Utc>>,
    pub(super) before: Option<DateTime<Utc>>,
}

/// A checked [`ExportParams`].
#[derive(Clone, Debug)]
pub struct ExportRequest {
    pub of: ExportKind,
    pub format: Format,
    pub(super) issued: ExportRange,
    pub(super) paid: ExportRange,
    pub(super) created: ExportRange,
    pub(super) statuses: Option<Vec<String>>,
    pub(super) currencies: Option<Vec<String>>,
    pub(super) org: Option<OrgName>,
    pub(super) customer: Option<String>,
    pub(super) account: Option<String>,
    pub(super) livemode: Option<bool>,
    pub(super) every_realm: bool,
    pub(super) after: Option<String>,
    pub(super) header: bool,
    pub(super) bom: bool,
    pub entries: Entries,
}

impl ExportRequest {
    /// The same request, if `principal` may name its org.
    ///
    /// # Errors
    /// [`Error::UnknownOrg`] when a key of an org names another.
    pub fn within(self, principal: &Principal) -> Result<Self, Error> {
        let org = self.org.map(|org| org.within(principal)).transpose()?;
        Ok(Self { org, ..self })
    }

    /// The same request, for these entries only.
    #[must_use]
    pub fn narrowed(self, entries: Entries) -> Self {
        Self { entries, ..self }
    }
}

impl ExportParams {
    /// Reads named values. Refuses unknown and repeated names: a typo must not widen an export unnoticed.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the parameter.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        named(pairs)
    }

    /// Checks all parameters.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that breaks a rule.
    pub fn check(&self) -> Result<ExportRequest, Error> {
        let kind = choice("of", self.of.as_deref().unwrap_or("invoices"), &Kind::ALL, Kind::name)?;
        let format = choice("format", self.format.as_deref().unwrap_or("csv"), &Format::ALL, Format::name)?;
        self.refuse_inapplicable(kind, format)?;
        Ok(ExportRequest {
            of: kind.into(),
            format,
            issued: period(("issued_from", &self.issued_from), ("issued_before", &self.issued_before))?,
            paid: period(("paid_from", &self.paid_from), ("paid_before", &self.paid_before))?,
            created: period(("created_from", &self.created_from), ("created_before", &self.created_before))?,
            statuses: self.statuses(kind)?,
            currencies: self.currencies()?,
            org: id("org", &self.org)?.map(|name| OrgName::of_any(name, "org")),
            customer: id("customer", &self.customer)?,
            account: id("account", &self.account)?,
            livemode: boolean("livemode", &self.livemode)?,
            every_realm: every_realm(&self.realms)?,
            after: id("after", &self.after)?,
            header: boolean("header", &self.header)?.unwrap_or(true),
            bom: boolean("bom", &self.bom)?.unwrap_or(false),
            entries: Entries::default(),
        })
    }

    fn refuse_inapplicable(&self, kind: Kind, format: Format) -> Result<(), Error> {
        let not_of_kind = |name: &'static str, given: &Option<String>, kinds: &[Kind]| match given {
            Some(_) if !kinds.contains(&kind) => {
                let kinds: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                let rule = format!("applies to {} only: leave it out for {}", kinds.join(", "), kind.name());
                Err(Error::invalid(name, rule))
            }
            _ => Ok(()),
        };
        let of_invoices = [Kind::Invoices, Kind::Lines];
        let of_paid = [Kind::Invoices, Kind::Lines, Kind::Payments];
        not_of_kind("issued_from", &self.issued_from, &of_invoices)?;
        not_of_kind("issued_before", &self.issued_before, &of_invoices)?;
        not_of_kind("paid_from", &self.paid_from, &of_paid)?;
        not_of_kind("paid_before", &self.paid_before, &of_paid)?;
        let not_of_format = |name: &'static str, given: &Option<String>, formats: &[Format]| match given {
            Some(_) if !formats.contains(&format) => {
                let formats: Vec<&str> = formats.iter().map(|format| format.name()).collect();
                let rule =
                    format!("applies to {} only: leave it out for {}", formats.join(", "), format.name());
                Err(Error::invalid(name, rule))
            }
            _ => Ok(()),
        };
        not_of_format("header", &self.header, &[Format::Csv])?;
        not_of_format("bom", &self.bom, &[Format::Csv])?;
        // Files of the other formats have a header and an end, so two parts do not make a whole file.
        not_of_format("after", &self.after, &[Format::Csv, Format::Jsonl])
    }

    fn statuses(&self, kind: Kind) -> Result<Option<Vec<String>>, Error> {
        let Some(text) = &self.status else { return Ok(None) };
        let known = kind.statuses();
        let statuses: Vec<String> = text.split(',').map(|status| status.trim().to_owned()).collect();
        match statuses.iter().find(|status| !known.contains(&status.as_str())) {
            Some(_) => Err(Error::invalid("status", format!("must be of {}", known.join(", ")))),
            None => Ok(Some(statuses)),
        }
    }

    fn currencies(&self) -> Result<Option<Vec<String>>, Error> {
        let Some(text) = &self.currency else { return Ok(None) };
        let currencies: Vec<String> =
            text.split(',').map(|currency| currency.trim().to_ascii_lowercase()).collect();
        let plain = |code: &String| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_lowercase());
        if currencies.iter().all(plain) {
            Ok(Some(currencies))
        } else {
            Err(Error::invalid("currency", "must be ISO 4217 codes of three letters such as eur"))
        }
    }
}

/// Reads named values into the parameters of those names. Unknown and repeated names are refused.
pub(super) fn named<T: Default + Serialize + DeserializeOwned>(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Error> {
    let broken = |error: serde_json::Error| Error::Internal(error.to_string());
    let known = serde_json::to_value(T::default()).map_err(broken)?;
    let mut given = serde_json::Map::new();
    for (name, value) in pairs {
        if known.get(&name).is_none() {
            let names: Vec<&str> =
                known.as_object().into_iter().flat_map(|all| all.keys().map(String::as_str)).collect();
            return Err(Error::invalid(name, format!("is not a parameter; those are {}", names.join(", "))));
        }
        if given.insert(name.clone(), value.into()).is_some() {
            return Err(Error::invalid(name, "is given twice: give it once"));
        }
    }
    serde_json::from_value(given.into()).map_err(broken)
}

fn choice<T: Copy>(
    name: &'static str,
    text: &str,
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<T, Error> {
    all.iter().copied().find(|known| name_of(*known) == text).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|known| name_of(*known)).collect();
        Error::invalid(name, format!("must be one of {}", known.join(", ")))
    })
}

type Given<'a> = (&'static str, &'a Option<String>);

pub(super) fn period(
    (from_name, from): Given<'_>,
    (before_name, before): Given<'_>,
) -> Result<ExportRange, Error> {
    let period = ExportRange { from: instant(from_name, from)?, before: instant(before_name, before)? };
    match (period.from, period.before) {
        (Some(from), Some(before)) if from >= before => {
            Err(Error::invalid(before_name, format!("must be after {from_name}: the period is empty")))
        }
        _ => Ok(period),
    }
}

fn instant(name: &'static str, text: &Option<String>) -> Result<Option<DateTime<Utc>>, Error> {
    let Some(text) = text else { return Ok(None) };
    let day = || text.parse::<Day>().map(|day| day.0.and_time(NaiveTime::MIN).and_utc());
    let time = text.parse::<Moment>().map(|at| at.0).or_else(|_| day());
    time.map(Some).map_err(|_| {
        Error::invalid(
            name,
            "must be a time such as 2026-01-31T00:00:00Z (in a URL write the + of an offset as %2B) or a day \
                such as 2026-01-31",
        )
    })
}

fn boolean(name: &'static str, text: &Option<String>) -> Result<Option<bool>, Error> {
    match text.as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Error::invalid(name, "must be true or false")),
    }
}

fn every_realm(text: &Option<String>) -> Result<bool, Error> {
    match text.as_deref() {
        None => Ok(false),
        Some("all") => Ok(true),
        Some(_) => Err(Error::invalid("realms", "must be all, or left out")),
    }
}

/// An id; not empty.
fn id(name: &'static str, text: &Option<String>) -> Result<Option<String>, Error> {
    match text {
        Some(text) if text.is_empty() => {
            Err(Error::invalid(name, "must not be empty: leave it out or give an id"))
        }
        text => Ok(text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str) -> Result<ExportRequest, String> {
        let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        ExportParams::from_pairs(query.split('&').filter_map(pair)).and_then(|params| params.check()).map_err(
            |error| match error {
                Error::Invalid { field, .. } => field.into_owned(),
                other => panic!("{other}"),
            },
        )
    }

    #[test]
    fn every_mistake_names_its_parameter() {
        for (query, name) in [
            ("of=orders", "of"),
            ("format=xls", "format"),
            ("fromat=csv", "fromat"),
            ("format=csv&format=csv", "format"),
            ("status=payed", "status"),
            ("of=refunds&status=paid", "status"),
            ("currency=euro", "currency"),
            ("issued_from=yesterday", "issued_from"),
            ("issued_from=2026-02-01&issued_before=2026-02-01", "issued_before"),
            ("of=payments&issued_from=2026-02-01", "issued_from"),
            ("of=refunds&paid_before=2026-02-01", "paid_before"),
            ("format=jsonl&bom=true", "bom"),
            ("format=xlsx&header=false", "header"),
            ("format=parquet&after=in_1", "after"),
            ("livemode=yes", "livemode"),
            ("org=", "org"),
        ] {
            assert_eq!(check(query).expect_err(query), name, "{query}");
        }
    }

    #[test]
    fn times_are_instants_or_dates_in_utc() {
        let request = check("issued_from=2026-01-31&issued_before=2026-02-01T00:00:00+02:00").expect("valid");
        assert_eq!(request.issued.from.map(|time| time.timestamp()), Some(1_769_817_600));
        assert_eq!(request.issued.before.map(|time| time.timestamp()), Some(1_769_896_800));
    }

    #[test]
    fn the_defaults_are_all_invoices_as_csv_with_a_header() {
        let request = check("").expect("valid");
        assert_eq!((request.of, request.format), (ExportKind::Billing(Kind::Invoices), Format::Csv));
        assert!(request.header && !request.bom && request.statuses.is_none());
    }
}
