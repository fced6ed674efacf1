//! The exports of usage: columns, tables and order of their rows. A row is a day or month of a series.
//!
//! `docs/exports.md` and the API's description are made from this file.

use super::summaries::TimeUnit;
use crate::billing::exports::{Column, Type, column, text};

/// Which columns a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageColumns {
    /// Our own.
    Plain,
    /// Those of FOCUS 1.2, the FinOps Open Cost and Usage Specification
    /// (<https://focus.finops.org/focus-specification/v1-2/>).
    Focus,
}

impl UsageColumns {
    /// The name of the export in its control totals and of its file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "usage",
            Self::Focus => "focus",
        }
    }

    /// The columns of a row, in order.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Plain => PLAIN,
            Self::Focus => FOCUS,
        }
    }
}

const fn time(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Time, name, sql, meaning)
}

const fn decimal(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Decimal, name, sql, meaning)
}

const fn summed(column: Column) -> Column {
    Column { summed: true, ..column }
}

const QUANTITY: &str = "trim_scale(d.quantity)::text";
const COST: &str = "trim_scale(d.cost)::text";
const BATTERY_UNITS: &str = "trim_scale(d.battery_units)::text";

const PLAIN: &[Column] = &[
    column(Type::Day, "day", "d.day", "Local day of the org; of months their first day"),
    text("org_id", "o.public_id", "The org (`org_…`)"),
    text("org_external_id", "o.external_id", "The org's id in your own systems"),
    text("org_name", "o.name", "The org's name"),
    text("meter", "m.key", "Key of the meter"),
    text("member", "s.member", "Member of the org; empty where the usage has none"),
    column(Type::Json, "dimensions", "s.dimensions::text", "Values of the meter's dimensions, an object"),
    summed(decimal("quantity", QUANTITY, "How much, in `unit`")),
    summed(column(Type::Integer, "count", "d.count", "Usage events, without those that were taken back")),
    summed(decimal("cost", COST, "What it costs, in major units of `currency`")),
    text(
        "currency",
        "coalesce(s.currency, m.currency)",
        "ISO 4217 code, lower case; empty while the meter has no prices",
    ),
    summed(decimal("battery_units", BATTERY_UNITS, "Battery units")),
    text("unit", "m.unit", "What the quantity is counted in"),
    text(
        "aggregation",
        "m.aggregation",
        "How values become the quantity: sum, count, max, unique, latest, level",
    ),
];

/// In the order of the alphabet, as FOCUS has them, then those of our own, which begin with `x_`.
const FOCUS: &[Column] = &[
    summed(decimal("BilledCost", COST, "What it costs, in major units of `BillingCurrency`")),
    text("BillingAccountId", "o.public_id", "The org (`org_…`)"),
    text("BillingAccountName", "o.name", "The org's name"),
    text("BillingCurrency", "upper(coalesce(s.currency, m.currency))", "ISO 4217 code"),
    time(
        "BillingPeriodEnd",
        "((date_trunc('month', d.day::timestamp) + interval '1 month') AT TIME ZONE o.time_zone)",
        "End of the org's local month, not included",
    ),
    time(
        "BillingPeriodStart",
        "(date_trunc('month', d.day::timestamp) AT TIME ZONE o.time_zone)",
        "Start of the org's local month",
    ),
    text("ChargeCategory", "'Usage'::text", "Usage"),
    text("ChargeClass", "NULL::text", "Empty: it corrects no earlier period"),
    text(
        "ChargeDescription",
        "concat(n.name, ': ', trim_scale(d.quantity), ' ', m.unit)",
        "Meter, quantity and unit",
    ),
    text("ChargeFrequency", "'Usage-Based'::text", "Usage-Based"),
    time("ChargePeriodEnd", "(d.day_after::timestamp AT TIME ZONE o.time_zone)", "End, not included"),
    time(
        "ChargePeriodStart",
        "(d.day::timestamp AT TIME ZONE o.time_zone)",
        "Start of the local day or month",
    ),
    decimal("ConsumedQuantity", QUANTITY, "How much, in `ConsumedUnit`"),
    text("ConsumedUnit", "m.unit", "Unit of the meter"),
    decimal("ContractedCost", COST, "As `BilledCost`"),
    decimal("EffectiveCost", COST, "As `BilledCost`"),
    text("InvoiceIssuerName", "v.provider", "As `ProviderName`"),
    decimal("ListCost", COST, "As `BilledCost`: the rate cards are the prices"),
    text("PricingCategory", "'Standard'::text", "Standard"),
    decimal("PricingQuantity", QUANTITY, "As `ConsumedQuantity`"),
    text("PricingUnit", "m.unit", "Unit of the meter"),
    text("ProviderName", "v.provider", "The parameter `provider`"),
    text("PublisherName", "v.provider", "As `ProviderName`"),
    text("ResourceId", "s.member", "Member of the org; empty where the usage has none"),
    text("ServiceCategory", "v.category", "The parameter `service_category`"),
    text("ServiceName", "n.name", "Name of the meter"),
    text("SkuId", "m.key", "Key of the meter"),
    text("SkuMeter", "n.name", "Name of the meter"),
    text("SubAccountId", "o.public_id", "The org (`org_…`)"),
    text("SubAccountName", "o.name", "The org's name"),
    column(Type::Json, "Tags", "s.dimensions::text", "Values of the meter's dimensions, an object of texts"),
    decimal("x_BatteryUnits", BATTERY_UNITS, "Battery units"),
    column(Type::Integer, "x_EventCount", "d.count", "Usage events, without those that were taken back"),
    text("x_OrgExternalId", "o.external_id", "The org's id in your own systems"),
];

/// SQL: the days of each series.
const DAYS: &str = "SELECT t.org_id, t.series_id, t.day, t.day + 1 AS day_after, t.quantity, t.count, t.cost,
        t.battery_units
    FROM daily_summaries t WHERE t.day >= ? AND t.day < ?";

/// SQL: the months of each series, summed up as the list of usage does it: see [`super::summaries`]. The
/// different values of a month are counted again, since those of its days overlap.
const MONTHS: &str = "SELECT g.org_id, g.series_id, g.month AS day,
        (g.month + interval '1 month')::date AS day_after,
        CASE g.aggregation WHEN 'unique' THEN (SELECT count(DISTINCT u.value_digest) FROM usage_uniques u
            WHERE u.org_id = g.org_id AND u.series_id = g.series_id AND u.day >= ? AND u.day < ?
                AND date_trunc('month', u.day::timestamp)::date = g.month)
            ELSE g.quantity END AS quantity,
        g.count, g.cost, g.battery_units
    FROM (SELECT t.org_id, t.series_id, date_trunc('month', t.day::timestamp)::date AS month, m.aggregation,
            CASE m.aggregation
                WHEN 'max' THEN coalesce(max(t.quantity) FILTER (WHERE t.count > 0), 0)
                WHEN 'latest' THEN coalesce((array_agg(t.quantity ORDER BY t.latest_at DESC, t.quantity DESC)
                    FILTER (WHERE t.latest_at IS NOT NULL))[1], 0)
                ELSE sum(t.quantity) END AS quantity,
            sum(t.count)::bigint AS count, sum(t.cost) AS cost, sum(t.battery_units) AS battery_units
        FROM daily_summaries t JOIN usage_series e USING (org_id, series_id) JOIN meters m USING (meter_id)
        WHERE t.day >= ? AND t.day < ?
        GROUP BY 1, 2, 3, 4) g";

/// SQL after `FROM`. Each `?` stands for a value: of days the first day and the day after the last one, of
/// months the same twice; then the provider and the service category.
#[must_use]
pub fn from(unit: TimeUnit) -> String {
    let rows = match unit {
        TimeUnit::Day => DAYS,
        TimeUnit::Month => MONTHS,
    };
    format!(
        "({rows}) d JOIN usage_series s ON (s.org_id, s.series_id) = (d.org_id, d.series_id)
         JOIN meters m ON m.meter_id = s.meter_id JOIN orgs o ON o.org_id = d.org_id
         LEFT JOIN (SELECT DISTINCT ON (meter_id) meter_id, name FROM meter_versions
             ORDER BY meter_id, version DESC) n ON n.meter_id = m.meter_id
         CROSS JOIN (SELECT ?::text AS provider, ?::text AS category) v"
    )
}

/// SQL: the condition for a row to be exported. Usage that was taken back leaves none.
pub const KEPT: &str = "(d.count <> 0 OR d.quantity <> 0 OR d.cost <> 0 OR d.battery_units <> 0)";

/// SQL: the order of the rows. No two are equal.
pub const ORDER: &str = "d.org_id, d.day, m.key, s.member NULLS FIRST, s.dimensions, d.series_id";
