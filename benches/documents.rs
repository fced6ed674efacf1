//! Measures the forms of an invoice with many lines: HTML, PDF, Factur-X, UBL and CII.
//!
//! The baseline is the content as canonical JSON, read once. Medians and ratios are of one run. `cargo bench
//! --bench documents` takes 60 lines, on three pages; `-- --lines N` sets another number. The first PDF of a
//! process also reads the fonts.

#[path = "../tests/it/support/documents.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is the tests' too")]
mod sales;

use std::time::{Duration, Instant};

use coulomb::documents::content::{Document, TaxCategory};
use coulomb::documents::html::{Template, html};
use coulomb::documents::pdf::pdf;
use coulomb::documents::xml::{self, Profile};
use sales::Sale;

const REPEATS: usize = 41;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == "--lines");
    let lines = at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(60);
    let document = invoice(lines);
    let template = Template::default();
    let started = Instant::now();
    pdf(&document, &template).expect("a PDF");
    println!("{lines} lines; the first PDF, with the fonts: {:.1} ms", milliseconds(started.elapsed()));
    let json = serde_json::to_string(&document).expect("JSON");
    let base = measured("read the JSON", None, || {
        let read: Document = serde_json::from_str(&json).expect("the document");
        std::hint::black_box(read);
        json.len()
    });
    let shown = |name: &str, make: &dyn Fn() -> usize| measured(name, Some(base), make);
    shown("HTML", &|| html(&document, &template).expect("HTML").len());
    shown("PDF", &|| pdf(&document, &template).expect("a PDF").len());
    shown("Factur-X", &|| xml::facturx(&document, &template).expect("a PDF").len());
    shown("UBL, EN 16931", &|| xml::ubl(&document, Profile::En16931).expect("UBL").len());
    shown("UBL, XRechnung", &|| xml::ubl(&document, Profile::XRechnung).expect("UBL").len());
    shown("CII, EN 16931", &|| xml::cii(&document, Profile::En16931).expect("CII").len());
}

/// Fees, usage below a cent, and two rates, with a discount.
fn invoice(lines: usize) -> Document {
    let mut sale = Sale::new("eur").language("de").discount("10", "Treuerabatt").credit(12_345);
    for number in 1..=lines {
        let name = format!("Output tokens, model large-{number}");
        sale = match number % 3 {
            0 => sale.line(&name, "123456789", "0.40").per("1000000", "tokens"),
            1 => sale.line("Pro plan, workspace", "1", "49.00"),
            _ => sale.taxed("Printed manual", "3", "12.50", TaxCategory::S, "7"),
        };
        sale = sale.during("2026-11-01", "2026-11-30");
    }
    sale.document()
}

/// Prints the median time of `make` and its ratio to `base`, and returns the median.
fn measured(name: &str, base: Option<Duration>, make: impl Fn() -> usize) -> Duration {
    let mut times = Vec::with_capacity(REPEATS);
    let mut bytes = 0;
    for _ in 0..REPEATS {
        let started = Instant::now();
        bytes = make();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let median = times[REPEATS / 2];
    let ratio = base.map_or(1.0, |base| median.as_secs_f64() / base.as_secs_f64());
    println!("{name:<16} {:>8.3} ms  {ratio:>7.1} × reading  {bytes:>7} bytes", milliseconds(median));
    median
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
