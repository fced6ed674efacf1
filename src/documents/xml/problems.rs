//! What a document lacks for an e-invoice, by the names of its fields.

use en16931::ValidationReport;
use en16931::bt::{Group, Path};

use super::amounts;
use crate::documents::content::{Document, TaxCategory};
use crate::documents::error::Problem;

/// What the standard's model cannot hold, so that its own rules would not find it.
pub(super) fn before_conversion(document: &Document) -> Vec<Problem> {
    let mut problems = Vec::new();
    if document.number.is_none() {
        problems.push(Problem::new("number", "BR-02", "a draft has no number, and is no invoice yet"));
    }
    if !amounts::fit(&document.currency) {
        let message = "amounts have at most two decimal places, and this currency has three";
        problems.push(Problem::new("currency", "BR-DEC-23", message));
    }
    let out_of_scope = document.taxes.iter().filter(|tax| tax.category == TaxCategory::O).count();
    if out_of_scope > 0 && out_of_scope < document.taxes.len() {
        let message = "lines outside the scope of VAT (O) cannot stand beside others";
        problems.push(Problem::new("taxes", "BR-O-11", message));
    }
    problems
}

/// What the rules found, each once.
pub(super) fn of(document: &Document, report: &ValidationReport) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for finding in report.fatal() {
        // Some texts end with the number of their rule. Those of XRechnung are German.
        let text = finding.message.trim_end_matches(&format!("[{}]", finding.rule)).trim_end();
        let message = match finding.rule.starts_with("BR-DE") {
            true => "XRechnung wants it",
            false => text.trim_end_matches('.'),
        };
        let mut fields = tax_ids(document, &finding.rule);
        if fields.is_empty() {
            fields.push(field(&finding.rule, finding.path));
        }
        for field in fields {
            let problem = Problem::new(&field, &finding.rule, message);
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    problems
}

/// Reverse charge and supplies within the Union want a tax number of both sides, in one rule: which lack.
fn tax_ids(document: &Document, rule: &str) -> Vec<String> {
    let is_reverse = rule.starts_with("BR-AE-0");
    let is_rule = ["-02", "-03", "-04"].iter().any(|end| rule.ends_with(end));
    if !is_rule || !(is_reverse || rule.starts_with("BR-IC-0")) {
        return Vec::new();
    }
    let (seller, buyer) = (&document.seller, &document.buyer);
    let seller_lacks = seller.vat_id.is_none() && !(is_reverse && seller.tax_number.is_some());
    let buyer_lacks = buyer.vat_id.is_none() && !(is_reverse && buyer.registration_number.is_some());
    let fields = [(seller_lacks, "seller.vat_id"), (buyer_lacks, "buyer.vat_id")];
    fields.iter().filter(|(lacks, _)| *lacks).map(|(_, field)| (*field).to_owned()).collect()
}

/// The field that a finding is about.
fn field(rule: &str, path: Path) -> String {
    let Some(term) = path.term else {
        return match (rule, path.group) {
            // One of two fields is enough, and a document outside the scope of VAT has no VAT ids.
            ("BR-CO-26", _) => "seller.registration_number",
            ("BR-DE-2", _) => "seller.contact",
            (_, Group::Seller) => "seller.address",
            (_, Group::Buyer) => "buyer.address",
            (_, Group::Payment) => "payment_accounts",
            (_, Group::Totals) => "totals",
            (_, Group::VatBreakdown) => "taxes",
            (_, Group::DocumentAllowance) => "allowances",
            (_, Group::Line) => "lines",
            _ => "document",
        }
        .to_owned();
    };
    let found = FIELDS.iter().find(|(number, _)| *number == term.0);
    let name = found.map_or_else(|| path.to_string(), |(_, name)| (*name).to_owned());
    match path.index {
        Some(index) => name.replace("[]", &format!("[{index}]")),
        None => name.replace("[]", ""),
    }
}

/// Which field of a document becomes which business term.
const FIELDS: [(u16, &str); 74] = [
    (1, "number"),
    (2, "issue_date"),
    (3, "kind"),
    (5, "currency"),
    (9, "due_date"),
    (10, "buyer_reference"),
    (13, "purchase_order"),
    (20, "terms"),
    (22, "note"),
    (25, "invoice.number"),
    (26, "invoice.issue_date"),
    (27, "seller.name"),
    (28, "seller.trading_name"),
    (30, "seller.registration_number"),
    (31, "seller.vat_id"),
    (32, "seller.tax_number"),
    (34, "seller.electronic_address"),
    (35, "seller.address.line1"),
    (36, "seller.address.line2"),
    (37, "seller.address.city"),
    (38, "seller.address.postal_code"),
    (39, "seller.address.region"),
    (40, "seller.address.country"),
    (41, "seller.contact"),
    (42, "seller.phone"),
    (43, "seller.email"),
    (44, "buyer.name"),
    (45, "buyer.trading_name"),
    (47, "buyer.registration_number"),
    (48, "buyer.vat_id"),
    (49, "buyer.electronic_address"),
    (50, "buyer.address.line1"),
    (51, "buyer.address.line2"),
    (52, "buyer.address.city"),
    (53, "buyer.address.postal_code"),
    (54, "buyer.address.region"),
    (55, "buyer.address.country"),
    (56, "buyer.contact"),
    (57, "buyer.phone"),
    (58, "buyer.email"),
    (72, "supply_to"),
    (73, "supply_from"),
    (74, "supply_to"),
    (77, "buyer.address.city"),
    (78, "buyer.address.postal_code"),
    (80, "buyer.address.country"),
    (81, "payment_accounts"),
    (84, "payment_accounts"),
    (85, "payment_accounts"),
    (86, "payment_accounts"),
    (92, "allowances[].net"),
    (95, "allowances[].tax_category"),
    (96, "allowances[].tax_percent"),
    (97, "allowances[].name"),
    (106, "totals.lines_net"),
    (107, "totals.allowances_net"),
    (109, "totals.net"),
    (110, "totals.tax"),
    (112, "totals.total"),
    (113, "totals.credited"),
    (115, "totals.due"),
    (116, "taxes[].base"),
    (117, "taxes[].tax"),
    (118, "taxes[].category"),
    (119, "taxes[].percent"),
    (120, "taxes[].exemption_reason"),
    (121, "taxes[].exemption_code"),
    (129, "lines[].quantity"),
    (131, "lines[].net"),
    (146, "lines[].unit_price"),
    (149, "lines[].base_quantity"),
    (151, "lines[].tax_category"),
    (152, "lines[].tax_percent"),
    (153, "lines[].description"),
];
