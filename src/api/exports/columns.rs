//! The tables of columns in the API's description and in `docs/exports.md`.

use utoipa::Modify;
use utoipa::openapi::OpenApi;

use crate::billing::exports::Kind;
use crate::export::ExportKind;
use crate::usage::exports::UsageColumns;
use crate::usage::summaries::TimeUnit;

/// Adds the tables of columns to the API's description.
pub struct Columns;

impl Modify for Columns {
    fn modify(&self, api: &mut OpenApi) {
        let mut describe = |path: &str, text: &str| {
            let operation = api.paths.paths.get_mut(path).and_then(|path| path.get.as_mut());
            if let Some(operation) = operation {
                operation.description.get_or_insert_default().push_str(text);
            }
        };
        for kind in Kind::ALL {
            let table = column_table(kind);
            describe("/v1/invoices/export", &format!("\n\n### Columns of `of={}`\n\n{table}", kind.name()));
        }
        describe("/v1/battery/export", &format!("\n\n### Columns\n\n{}", column_table(ExportKind::Battery)));
        describe(
            "/v1/stripe/charges/export",
            &format!("\n\n### Columns\n\n{}", column_table(ExportKind::Charges)),
        );
        describe("/v1/audit/export", &format!("\n\n### Columns\n\n{}", column_table(ExportKind::Audit)));
        describe(
            "/v1/stripe/drift/export",
            &format!("\n\n### Columns\n\n{}", column_table(ExportKind::Drift)),
        );
        let table = column_table(ExportKind::Breakdown);
        describe("/v1/usage/breakdown/export", &format!("\n\n### Columns\n\n{table}"));
        for (title, of) in USAGE {
            let table = column_table(of);
            describe("/v1/usage/export", &format!("\n\n### Columns of {title}\n\n{table}"));
        }
    }
}

/// The exports of usage, with what their columns are called in the documentation.
const USAGE: [(&str, ExportKind); 2] = [
    ("usage", ExportKind::Usage(TimeUnit::Day, UsageColumns::Plain)),
    ("`columns=focus`", ExportKind::Usage(TimeUnit::Day, UsageColumns::Focus)),
];

/// The columns of a kind as a Markdown table.
fn column_table(of: impl Into<ExportKind>) -> String {
    let rows: Vec<String> = of
        .into()
        .columns()
        .iter()
        .map(|column| {
            let sum = if column.summed { "yes" } else { "" };
            format!("| `{}` | {} | {} | {sum} |", column.name, column.holds.unit(), column.meaning)
        })
        .collect();
    format!("| Column | Unit | Meaning | In the control totals |\n|---|---|---|---|\n{}\n", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_for_finance_has_the_columns_of_the_code() {
        let page = include_str!("../../../docs/exports.md");
        let usage = USAGE.map(|(_, of)| of);
        let ours = [
            ExportKind::Battery,
            ExportKind::Audit,
            ExportKind::Breakdown,
            ExportKind::Drift,
            ExportKind::Charges,
        ];
        for of in Kind::ALL.map(ExportKind::Billing).into_iter().chain(ours).chain(usage) {
            let table = column_table(of);
            assert!(page.contains(&table), "docs/exports.md lacks this table of {}:\n{table}", of.name());
        }
    }

    #[test]
    fn the_description_has_the_columns() {
        let text = crate::api::openapi::document();
        assert!(text.contains("Columns of `of=refunds`") && text.contains("amount_remaining_major"));
    }
}
