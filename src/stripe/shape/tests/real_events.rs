use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::payment_keys;
use super::{ObjectRef, realm, try_read};
use crate::billing::MirrorBatch;

fn json_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            json_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
}

/// How many objects of this kind a batch has; `None` for kinds without a mirror.
fn count(batch: &MirrorBatch, kind: &str) -> Option<usize> {
    Some(match kind {
        "customer" => batch.customers.len(),
        "subscription" => batch.subscriptions.len(),
        "invoice" => batch.invoices.len(),
        "payment_intent" => batch.payment_intents.len(),
        "charge" => batch.charges.len(),
        "invoice_payment" => batch.invoice_payments.len(),
        "refund" => batch.refunds.len(),
        "dispute" => batch.disputes.len(),
        "credit_note" => batch.credit_notes.len(),
        "checkout.session" => batch.checkout_sessions.len(),
        "product" => batch.products.len(),
        "price" => batch.prices.len(),
        _ => return None,
    })
}

#[test]
fn every_real_object_reads() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/stripe-events");
    let directory = std::env::var_os("COULOMB_STRIPE_EVENTS").map_or(beside, PathBuf::from);
    if !directory.is_dir() {
        println!("skipped: no real Stripe events at {}; set COULOMB_STRIPE_EVENTS", directory.display());
        return;
    }
    let mut files = Vec::new();
    json_files(&directory, &mut files);
    let mut mirrored = 0;
    for file in &files {
        let event: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let snapshot = &event["data"]["object"];
        let Some(kind) = snapshot["object"].as_str() else { continue };
        let batch = try_read(snapshot, false).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let Some(found) = count(&batch, kind) else { continue };
        assert_eq!(found, 1, "{}", file.display());
        let (realm, id) = (realm(), snapshot["id"].as_str().unwrap());
        let object = ObjectRef { realm: &realm, object: kind, id, deleted: false, more: None };
        assert!(payment_keys(&object, &snapshot.into()) == batch.payment_keys, "{}", file.display());
        whole(&batch, file);
        mirrored += 1;
    }
    assert!(mirrored > 30, "only {mirrored} of {} files hold an object with a mirror", files.len());
}

/// Fields that every real object has. If one is missing, we misread a generation of shapes.
fn whole(batch: &MirrorBatch, file: &Path) {
    let file = file.display();
    for read in &batch.invoices {
        let invoice = &read.invoice;
        assert!(
            invoice.customer_id.is_some() && invoice.status.is_some() && invoice.created.is_some(),
            "{file}"
        );
        assert!(
            invoice.total.is_some() && invoice.amount_remaining.is_some() && invoice.tax_total.is_some(),
            "{file}"
        );
        for line in &read.lines {
            assert!(line.price_id.is_some() && line.amount.is_some() && line.period_end.is_some(), "{file}");
            assert!(line.unit_amount_decimal.is_some() && line.tax_amount.is_some(), "{file}");
        }
        if invoice.billing_reason.as_deref().is_some_and(|reason| reason.starts_with("subscription")) {
            assert!(invoice.subscription_id.is_some(), "{file}");
        }
        let lines: i64 = read.lines.iter().filter_map(|line| line.amount).sum();
        assert!(
            !invoice.lines_complete || read.lines.is_empty() || Some(lines) == invoice.subtotal,
            "{file}"
        );
    }
    for read in &batch.subscriptions {
        assert!(
            read.subscription.current_period_end.is_some() && read.subscription.currency.is_some(),
            "{file}"
        );
        assert!(read.items.iter().all(|item| item.price_id.is_some() && item.product_id.is_some()), "{file}");
    }
    for charge in &batch.charges {
        assert!(charge.payment_method_type.is_some() && charge.amount.is_some(), "{file}");
    }
}
