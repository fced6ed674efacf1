//! The parameters of an export and their rules, one list for the HTTP query and the command line.

mod values;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::ExportKind;
use super::audit::AuditRows;
use super::battery::Entries;
use super::breakdown::BreakdownRows;
use super::charges::ChargeRows;
use super::drift::DriftRows;
use super::usage::UsageRows;
use super::zone::Zone;
use crate::auth::{PLATFORM, Principal};
use crate::billing::exports::{Filters, Kind};
use crate::billing::org_name::OrgName;
use crate::billing::read::Origin;
use crate::db::Scope;
use crate::error::Error;
use crate::invoicing::exports as own;
pub(super) use values::{
    boolean, choice, dimensions, every_realm, given, given_dimensions, id, named, parts, period,
    split_dimensions, zone,
};

/// Which rows to write, and how. A time is RFC 3339, or a date such as `2026-01-31` for its first
/// instant in `time_zone`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams, clap::Args)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct ExportParams {
    /// What: invoices, lines (of invoices), payments, refunds, credit_notes, credit_note_lines, disputes or
    /// customers; invoices when left out
    #[arg(long, value_name = "KIND")]
    #[param(
        pattern = "^(invoices|lines|payments|refunds|credit_notes|credit_note_lines|disputes|customers)$"
    )]
    pub of: Option<String>,
    /// stripe: what is mirrored from Stripe; own: what was made or recorded here; all: both, and the default
    #[arg(long)]
    #[param(pattern = "^(stripe|own|all)$")]
    pub origin: Option<String>,
    /// csv, jsonl, xlsx or parquet; csv when left out
    #[arg(long)]
    #[param(pattern = "^(csv|jsonl|xlsx|parquet)$")]
    pub format: Option<String>,
    /// Issued at or after this time: invoices by `finalized_at`, credit notes by `effective_at`, else
    /// `created`; lines as their document
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub issued_from: Option<String>,
    /// Issued before this time
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
    /// Made (`created`; for lines their document) at or after this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub created_from: Option<String>,
    /// Made before this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub created_before: Option<String>,
    /// Due at or after this time: invoices by `due_at` (lines as their invoice), disputes by
    /// `evidence_due_by`
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub due_from: Option<String>,
    /// Due before this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub due_before: Option<String>,
    /// Invoices and lines. true: only what is open and was due before the request; false: all else
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[param(pattern = "^(true|false)$")]
    pub overdue: Option<String>,
    /// Only this status, or several separated by commas; for lines that of their document
    #[arg(long)]
    pub status: Option<String>,
    /// Void invoices or credit notes: exclude, include or only; include when left out
    #[arg(long)]
    #[param(pattern = "^(exclude|include|only)$")]
    pub void: Option<String>,
    /// Only with this number: that of the invoice or credit note; for lines of their document, for
    /// payments, refunds and disputes of the invoice paid
    #[arg(long)]
    #[param(min_length = 1)]
    pub number: Option<String>,
    /// Only of this subscription (`sub_…`, `lsub_…`): that of the invoice, or of the line where it has one
    #[arg(long)]
    #[param(min_length = 1)]
    pub subscription: Option<String>,
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
    /// IANA time zone of dates in the filters, and of times in the rows; UTC when left out
    #[arg(long, value_name = "ZONE")]
    #[param(min_length = 1)]
    pub time_zone: Option<String>,
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

/// Whether void documents are among the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Void {
    Exclude,
    #[default]
    Include,
    Only,
}

impl Void {
    const ALL: [Self; 3] = [Self::Exclude, Self::Include, Self::Only];

    fn name(self) -> &'static str {
        match self {
            Self::Exclude => "exclude",
            Self::Include => "include",
            Self::Only => "only",
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
    /// `None`: of both origins.
    pub(super) origin: Option<Origin>,
    pub(super) issued: ExportRange,
    pub(super) paid: ExportRange,
    pub(super) created: ExportRange,
    pub(super) due: ExportRange,
    /// Only what is overdue at `now`; `false`: only what is not.
    pub(super) overdue: Option<bool>,
    /// When the export was asked for.
    pub(super) now: DateTime<Utc>,
    pub(super) void: Void,
    pub(super) number: Option<String>,
    pub(super) subscription: Option<String>,
    pub(super) statuses: Option<Vec<String>>,
    pub(super) currencies: Option<Vec<String>>,
    pub(super) org: Option<OrgName>,
    pub(super) customer: Option<String>,
    pub(super) account: Option<String>,
    pub(super) livemode: Option<bool>,
    pub(super) every_realm: bool,
    pub(super) zone: Zone,
    pub(super) after: Option<String>,
    pub(super) header: bool,
    pub(super) bom: bool,
    pub entries: Entries,
    /// Of the audit log: narrows the export.
    pub audit: AuditRows,
    /// Narrows an export of charges.
    pub charges: ChargeRows,
    /// Of usage: its rows.
    pub(super) usage: Option<UsageRows>,
    /// Of differences from Stripe: narrows the export.
    pub drift: DriftRows,
    /// Of a breakdown: its rows.
    pub(super) breakdown: Option<BreakdownRows>,
    /// The parameters as they were given.
    pub(super) given: Map<String, Value>,
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

    /// The only org whose rows are asked for; `None`: every org. An org's own scope allows its rows alone.
    ///
    /// # Errors
    /// [`Error::UnknownOrg`] when there is no such org, or it is not the one that the scope allows.
    pub(super) fn org_within(&self, conn: &mut PgConnection, scope: Scope) -> Result<Option<i64>, Error> {
        let asked = self.org.as_ref().map(|org| org.row_id(conn)).transpose()?;
        let own = match scope {
            Scope::Platform => None,
            Scope::Org(org_id) => Some(org_id),
        };
        debug_assert!(own != Some(PLATFORM), "the platform has a scope of its own");
        if asked.is_some() && own.is_some() && asked != own {
            return Err(Error::UnknownOrg("org".into()));
        }
        Ok(own.or(asked))
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

    /// Checks all parameters. `now` is when the export is asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that breaks a rule.
    pub fn check(&self, now: DateTime<Utc>) -> Result<ExportRequest, Error> {
        let kind = choice("of", self.of.as_deref().unwrap_or("invoices"), &Kind::ALL, Kind::name)?;
        let format = choice("format", self.format.as_deref().unwrap_or("csv"), &Format::ALL, Format::name)?;
        self.refuse_of_kind(kind)?;
        self.refuse_of_format(format)?;
        let zone = zone(&self.time_zone)?;
        let void = self.void.as_deref().map(|text| choice("void", text, &Void::ALL, Void::name));
        let dates = |from, before| period(from, before, zone);
        Ok(ExportRequest {
            of: kind.into(),
            format,
            origin: self.origin()?,
            issued: dates(("issued_from", &self.issued_from), ("issued_before", &self.issued_before))?,
            paid: dates(("paid_from", &self.paid_from), ("paid_before", &self.paid_before))?,
            created: dates(("created_from", &self.created_from), ("created_before", &self.created_before))?,
            due: dates(("due_from", &self.due_from), ("due_before", &self.due_before))?,
            overdue: boolean("overdue", &self.overdue)?,
            now,
            void: void.transpose()?.unwrap_or_default(),
            number: id("number", &self.number)?,
            subscription: id("subscription", &self.subscription)?,
            statuses: self.statuses(kind)?,
            currencies: self.currencies()?,
            org: id("org", &self.org)?.map(|name| OrgName::of_any(name, "org")),
            customer: id("customer", &self.customer)?,
            account: id("account", &self.account)?,
            livemode: boolean("livemode", &self.livemode)?,
            every_realm: every_realm(&self.realms)?,
            zone,
            after: id("after", &self.after)?,
            header: boolean("header", &self.header)?.unwrap_or(true),
            bom: boolean("bom", &self.bom)?.unwrap_or(false),
            entries: Entries::default(),
            audit: AuditRows::default(),
            charges: ChargeRows::default(),
            usage: None,
            drift: DriftRows::default(),
            breakdown: None,
            given: given(self)?,
        })
    }

    /// Refuses what does not apply to the kind: a filter that is ignored widens an export unnoticed.
    fn refuse_of_kind(&self, kind: Kind) -> Result<(), Error> {
        type Applies = fn(&Filters) -> bool;
        let rules: [(&'static str, &Option<String>, Applies); 12] = [
            ("issued_from", &self.issued_from, |has| has.issued.is_some()),
            ("issued_before", &self.issued_before, |has| has.issued.is_some()),
            ("paid_from", &self.paid_from, |has| has.paid.is_some()),
            ("paid_before", &self.paid_before, |has| has.paid.is_some()),
            ("due_from", &self.due_from, |has| has.due.is_some()),
            ("due_before", &self.due_before, |has| has.due.is_some()),
            ("overdue", &self.overdue, |has| has.overdue.is_some()),
            ("void", &self.void, |has| has.void.is_some()),
            ("number", &self.number, |has| has.number.is_some()),
            ("subscription", &self.subscription, |has| has.subscription.is_some()),
            ("status", &self.status, |has| !has.statuses.is_empty()),
            ("currency", &self.currency, |has| has.currency.is_some()),
        ];
        for (name, given, applies) in rules {
            refuse_unless(name, given, kind, |kind| applies(&kind.definition().filters))?;
        }
        refuse_unless("origin", &self.origin, kind, |kind| own::definition(kind).is_some())
    }

    fn origin(&self) -> Result<Option<Origin>, Error> {
        match self.origin.as_deref() {
            None | Some("all") => Ok(None),
            Some("stripe") => Ok(Some(Origin::Stripe)),
            Some("own") => Ok(Some(Origin::Own)),
            Some(_) => Err(Error::invalid("origin", "must be one of stripe, own, all")),
        }
    }

    fn refuse_of_format(&self, format: Format) -> Result<(), Error> {
        for (name, given, formats) in [
            ("header", &self.header, &[Format::Csv][..]),
            ("bom", &self.bom, &[Format::Csv]),
            // Files of the other formats have a header and an end, so two parts do not make a whole file.
            ("after", &self.after, &[Format::Csv, Format::Jsonl]),
        ] {
            if given.is_some() && !formats.contains(&format) {
                let formats: Vec<&str> = formats.iter().map(|format| format.name()).collect();
                let rule =
                    format!("applies to {} only: leave it out for {}", formats.join(", "), format.name());
                return Err(Error::invalid(name, rule));
            }
        }
        Ok(())
    }

    fn statuses(&self, kind: Kind) -> Result<Option<Vec<String>>, Error> {
        let Some(text) = &self.status else { return Ok(None) };
        let known = kind.definition().filters.statuses;
        let statuses = parts(text);
        match statuses.iter().find(|status| !known.contains(&status.as_str())) {
            Some(_) => Err(Error::invalid("status", format!("must be of {}", known.join(", ")))),
            None => Ok(Some(statuses)),
        }
    }

    fn currencies(&self) -> Result<Option<Vec<String>>, Error> {
        let Some(text) = &self.currency else { return Ok(None) };
        let currencies = parts(&text.to_ascii_lowercase());
        let plain = |code: &String| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_lowercase());
        if currencies.iter().all(plain) {
            Ok(Some(currencies))
        } else {
            Err(Error::invalid("currency", "must be ISO 4217 codes of three letters such as eur"))
        }
    }
}

/// Refuses a parameter that does not apply to the kind.
fn refuse_unless(
    name: &'static str,
    given: &Option<String>,
    kind: Kind,
    applies: impl Fn(Kind) -> bool,
) -> Result<(), Error> {
    if given.is_none() || applies(kind) {
        return Ok(());
    }
    let fitting = Kind::ALL.into_iter().filter(|kind| applies(*kind));
    let fitting: Vec<&str> = fitting.map(Kind::name).collect();
    let rule = format!("applies to {} only: leave it out for {}", fitting.join(", "), kind.name());
    Err(Error::invalid(name, rule))
}

#[cfg(test)]
mod tests;
