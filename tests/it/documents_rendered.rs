//! Documents as e-invoices, checked by the rules that CEN publishes, and as PDF with an e-invoice in it.

use coulomb::documents::content::{Document, Party, TaxCategory};
use coulomb::documents::html::Template;
use coulomb::documents::pdf::pdf;
use coulomb::documents::xml::{Profile, cii, facturx, ubl};

use proptest::prelude::*;
use rust_decimal::Decimal;

use crate::support::documents::{Sale, account, address};
use crate::support::en16931;

const PROFILES: [Profile; 3] = [Profile::En16931, Profile::XRechnung, Profile::Peppol];

/// A buyer in another country, with a VAT id.
fn abroad(country: &str, vat_id: &str) -> impl FnOnce(&mut Document) {
    let (address, vat_id) = (address("12 rue de l’Exemple", "75011", "Paris", country), vat_id.to_owned());
    move |document| {
        document.buyer.address = address;
        document.buyer.vat_id = Some(vat_id);
    }
}

/// Documents of all kinds, by what is special about them.
fn documents() -> Vec<(String, Document)> {
    let euro = || Sale::new("eur");
    let of = |category| euro().taxed("Pro plan", "1", "49", category, "0");
    let usage = |sale: Sale| {
        sale.line("Output tokens", "12345678", "0.40")
            .per("1000000", "tokens")
            .during("2026-11-01", "2026-11-30")
            .line("Requests", "1234567", "0.000015")
            .per("1", "requests")
            .line("Storage", "1234.567", "0.0213")
            .per("1", "GB")
    };
    let rates = |sale: Sale| {
        sale.line("Consulting", "12.5", "119.99")
            .taxed("Manual", "3", "12.55", TaxCategory::S, "7")
            .taxed("Book", "2", "9.99", TaxCategory::S, "5.5")
            .taxed("Export of data", "1", "3.33", TaxCategory::Z, "0")
    };
    let mut documents = vec![
        ("one line", euro().line("Pro plan", "1", "49")),
        ("a fee in advance", euro().line("Pro plan", "1", "49").during("2026-12-01", "2026-12-31")),
        ("zero rate", of(TaxCategory::Z)),
        ("exempt", of(TaxCategory::E)),
        ("reverse charge", of(TaxCategory::AE).with(abroad("FR", "FR12345678901"))),
        ("within the Union", of(TaxCategory::K).with(abroad("FR", "FR12345678901"))),
        (
            "export",
            of(TaxCategory::G).with(|document| document.buyer.address.country = Some("US".to_owned())),
        ),
        ("outside the scope", of(TaxCategory::O)),
        ("prices below a cent", usage(euro())),
        ("several rates", rates(euro())),
        ("discounts", rates(euro()).discount("10", "Loyalty").discount("3.333", "Launch")),
        ("with tax", euro().inclusive().line("Pro plan", "3", "9.99")),
        ("with tax, all", usage(rates(euro().inclusive())).discount("10", "Loyalty").credit(500)),
        ("negative line", euro().line("Pro", "1", "99").line("Unused time", "-1", "14.50")),
        ("negative price", euro().line("Pro", "1", "99").line("Unused time", "1", "-14.50")),
        ("negative with tax", euro().inclusive().line("Pro", "1", "99").line("Unused", "-3", "4.99")),
        ("nothing used", euro().line("Pro", "1", "99").line("Tokens", "0", "0.4").per("1000000", "tokens")),
        ("nothing to pay", euro().line("Pro", "1", "10").discount("100", "Free")),
        ("paid by credit", euro().line("Pro", "1", "10").credit(1190)),
        ("credit note", usage(rates(euro())).taken_back()),
        ("credit note with tax", rates(euro().inclusive()).taken_back()),
        ("credit note without account", euro().line("Pro", "1", "10").taken_back().with(without_account)),
        ("credit note with a due date", euro().line("Pro", "1", "10").taken_back().with(due)),
        ("yen", usage(rates(Sale::new("jpy")))),
        ("yen with tax", usage(rates(Sale::new("jpy").inclusive())).discount("7", "Loyalty")),
        ("rupiah", Sale::new("idr").line("Paket Bisnis", "1", "399200")),
        ("kronor", rates(Sale::new("sek").discount("12.5", "Rabatt"))),
        ("large amounts", euro().line("Cluster", "123456", "9999.99")),
        (
            "signs",
            euro().line("<b>Łódź & \"Žižkov\"</b>\u{8} –\r\n\t日本 🚀", "1", "49").discount("1", "<i>&</i>"),
        ),
        ("another account", euro().line("Pro", "1", "10").with(another_account)),
        ("two accounts", euro().line("Pro", "1", "10").with(|one| one.payment_accounts.push(account()))),
        ("no due date", euro().line("Pro", "1", "10").with(|document| document.due_date = None)),
        ("no VAT id", euro().line("Pro", "1", "10").with(|document| document.seller.vat_id = None)),
    ]
    .into_iter()
    .map(|(name, sale)| (name.to_owned(), sale.document()))
    .collect::<Vec<_>>();
    for language in coulomb::documents::languages::codes() {
        for category in [TaxCategory::S, TaxCategory::E, TaxCategory::AE, TaxCategory::G, TaxCategory::O] {
            let percent = if category == TaxCategory::S { "19" } else { "0" };
            let sale = euro().taxed("Pro plan", "2", "24.50", category, percent).language(language);
            documents.push((format!("{language} {}", category.code()), sale.clone().document()));
            documents.push((format!("{language} {} back", category.code()), sale.taken_back().document()));
        }
    }
    documents
}

fn without_account(document: &mut Document) {
    document.payment_accounts.clear();
}

fn due(document: &mut Document) {
    document.due_date = Some(document.issue_date);
}

fn another_account(document: &mut Document) {
    let mut account = account();
    (account.iban, account.bic, account.bank) = (None, None, None);
    (account.name, account.number) = ("PayPal".to_owned(), Some("pay@hafenlicht.example".to_owned()));
    document.payment_accounts = vec![account];
}

/// Each document in each profile as UBL, and as CII.
fn e_invoices() -> Vec<(String, String)> {
    let mut invoices = Vec::new();
    for (name, document) in documents() {
        for profile in PROFILES {
            let xml = ubl(&document, profile).unwrap_or_else(|error| panic!("{name}: {error}"));
            invoices.push((format!("{name}, UBL, {}", profile.name()), xml));
            let xml = cii(&document, profile).unwrap_or_else(|error| panic!("{name}: {error}"));
            if profile == Profile::En16931 {
                invoices.push((format!("{name}, CII"), xml));
            }
        }
    }
    invoices
}

#[test]
fn e_invoices_follow_the_rules_that_cen_publishes() {
    let invoices = e_invoices();
    assert!(invoices.len() > 300, "{}", invoices.len());
    if let Some(failures) = en16931::failures(invoices) {
        assert_eq!(failures, [""; 0]);
    }
}

/// Lines, discounts and currencies as chance has them. A discount leaves the sum of each rate above 0.
fn any_sale() -> impl Strategy<Value = Sale> {
    let line = (-3..1_000_000_i64, 0..10_000_000_i64, 0_u32..7, 0_usize..4, 0_u32..7);
    let lines = proptest::collection::vec(line, 1..12);
    let currency = prop_oneof![Just("eur"), Just("jpy"), Just("idr")];
    (lines, currency, any::<bool>(), any::<bool>(), 0..1000_u32).prop_map(
        |(lines, currency, inclusive, back, off)| {
            let mut sale = Sale::new(currency);
            for (quantity, price, places, rate, power) in lines {
                let rate = ["19", "7", "5.5", "0"][rate];
                let category = if rate == "0" { TaxCategory::E } else { TaxCategory::S };
                let price = Decimal::new(price, places).to_string();
                let sold = sale.taxed("Any", &quantity.to_string(), &price, category, rate);
                sale = sold.per(&10_i64.pow(power).to_string(), "tokens");
            }
            sale = sale.discount(&Decimal::new(i64::from(off), 1).to_string(), "Any");
            sale = if inclusive { sale.inclusive() } else { sale };
            if back { sale.taken_back() } else { sale }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn any_document_with_right_sums_can_be_an_e_invoice(sale in any_sale()) {
        let document = sale.document();
        for profile in PROFILES {
            if let Err(error) = ubl(&document, profile) {
                prop_assert!(false, "{error}\n{document:#?}");
            }
        }
    }
}

#[test]
fn the_rules_that_cen_publishes_find_a_total_that_is_off_by_one_cent() {
    let document = Sale::new("eur").line("Pro plan", "1", "49").document();
    let wrong = |xml: String, right: &str, wrong: &str| {
        assert_eq!(xml.matches(right).count(), 1, "{xml}");
        xml.replace(right, wrong)
    };
    let ubl = ubl(&document, Profile::En16931).expect("UBL");
    let cii = cii(&document, Profile::En16931).expect("CII");
    let invoices = [
        ("UBL", wrong(ubl, ">58.31</cbc:TaxInclusiveAmount>", ">58.32</cbc:TaxInclusiveAmount>")),
        ("CII", wrong(cii, "<ram:GrandTotalAmount>58.31", "<ram:GrandTotalAmount>58.32")),
    ];
    let invoices = invoices.map(|(name, xml)| (name.to_owned(), xml));
    let Some(failures) = en16931::failures(invoices) else { return };
    for name in ["UBL", "CII"] {
        let found = failures.iter().any(|failure| failure.starts_with(name) && failure.contains("BR-CO-15"));
        assert!(found, "{name}: {failures:#?}");
    }
}

#[test]
fn our_own_check_finds_a_total_that_is_off_by_one_cent() {
    for change in [
        (|totals| totals.total += 1) as fn(&mut coulomb::documents::content::Totals),
        |totals| totals.net -= 1,
        |totals| totals.tax += 1,
        |totals| totals.lines_net += 1,
        |totals| totals.due -= 1,
    ] {
        let mut document = Sale::new("eur").line("Pro plan", "1", "49").document();
        change(&mut document.totals);
        for profile in PROFILES {
            let error = ubl(&document, profile).expect_err("a wrong sum").to_string();
            assert!(error.contains("`totals.") && error.contains("(BR-CO-1"), "{error}");
        }
    }
}

#[test]
fn what_a_profile_lacks_is_listed_by_field_and_rule() {
    let bare = |name: &str| Party { name: name.to_owned(), ..Party::default() };
    let sale = Sale::new("eur").taxed("Pro plan", "1", "49", TaxCategory::AE, "0").with(|document| {
        (document.seller, document.buyer) = (bare("Seller"), bare("Buyer"));
        (document.due_date, document.terms, document.buyer_reference) = (None, None, None);
        document.purchase_order = None;
        document.payment_accounts.clear();
    });
    let lacks = |document: &Document, profile| match ubl(document, profile) {
        Err(coulomb::documents::Error::EInvoice { problems, .. }) => {
            problems.iter().map(|problem| format!("{} {}\n", problem.field, problem.rule)).collect::<String>()
        }
        other => panic!("{other:?}"),
    };
    let document = sale.document();
    expect_test::expect![[r#"
        due_date BR-CO-25
        seller.address BR-08
        seller.registration_number BR-CO-26
        seller.vat_id BR-AE-02
        buyer.vat_id BR-AE-02
        seller.address.country BR-09
        buyer.address BR-10
        buyer.address.country BR-11
    "#]]
    .assert_eq(&lacks(&document, Profile::En16931));
    expect_test::expect![[r#"
        due_date BR-CO-25
        buyer_reference BR-DE-15
        seller.electronic_address PEPPOL-EN16931-R020
        buyer.electronic_address PEPPOL-EN16931-R010
        seller.address BR-08
        seller.registration_number BR-CO-26
        seller.contact BR-DE-2
        seller.vat_id BR-AE-02
        buyer.vat_id BR-AE-02
        seller.vat_id BR-DE-16
        seller.address.city BR-DE-3
        seller.address.postal_code BR-DE-4
        seller.address.country BR-09
        seller.contact BR-DE-5
        seller.phone BR-DE-6
        seller.email BR-DE-7
        buyer.address BR-10
        buyer.address.city BR-DE-8
        buyer.address.postal_code BR-DE-9
        buyer.address.country BR-11
        payment_accounts BR-DE-1
    "#]]
    .assert_eq(&lacks(&document, Profile::XRechnung));
    expect_test::expect![[r#"
        due_date BR-CO-25
        buyer_reference PEPPOL-EN16931-R003
        seller.electronic_address PEPPOL-EN16931-R020
        buyer.electronic_address PEPPOL-EN16931-R010
        seller.address BR-08
        seller.registration_number BR-CO-26
        seller.vat_id BR-AE-02
        buyer.vat_id BR-AE-02
        seller.address.country BR-09
        buyer.address BR-10
        buyer.address.country BR-11
    "#]]
    .assert_eq(&lacks(&document, Profile::Peppol));
    let broken = |change: fn(&mut Document)| {
        let sale = Sale::new("eur").line("Pro plan", "1", "49").line("Disk", "1", "5");
        lacks(&sale.with(change).document(), Profile::En16931)
    };
    for (change, expected) in [
        ((|one| one.number = None) as fn(&mut Document), "number BR-02\n"),
        (|one| one.currency = "kwd".to_owned(), "currency BR-DEC-23\n"),
        (|one| one.lines[1].tax_category = TaxCategory::O, "taxes BR-O-11\n"),
        (|one| one.seller.vat_id = Some("123456789".to_owned()), "seller.vat_id BR-CO-09\n"),
        (|one| one.lines[1].description = " ".to_owned(), "lines[1].description BR-25\n"),
        (|one| one.buyer.address.country = Some("XX".to_owned()), "buyer.address.country BR-CL-14\n"),
        (|one| one.currency = "xyz".to_owned(), "currency BR-CL-04\n"),
        (|one| one.lines.clear(), "taxes BR-CO-18\nlines BR-16\n"),
    ] {
        assert_eq!(broken(change), expected);
    }
}

#[test]
fn a_reverse_charge_needs_the_vat_id_of_the_buyer() {
    let sale = Sale::new("eur").taxed("Pro plan", "1", "49", TaxCategory::AE, "0");
    let document = sale.with(|document| document.buyer.vat_id = None).document();
    let error = ubl(&document, Profile::En16931).expect_err("it lacks a VAT id").to_string();
    assert!(error.contains("`buyer.vat_id` (BR-AE-02)"), "{error}");
}

/// Reads the XML out of a PDF, and checks it against the schema.
const EXTRACT: &str = "import sys, facturx
name, xml = facturx.get_facturx_xml_from_pdf(open(sys.argv[1], 'rb').read(), check_xsd=True,
                                             check_schematron=False)
assert name == 'factur-x.xml', name
sys.stdout.buffer.write(xml)";

#[test]
fn a_factur_x_file_has_its_cii_in_it() {
    let sale = Sale::new("eur").line("Pro plan", "1", "49");
    for document in [sale.clone().document(), sale.taken_back().document()] {
        let (template, xml) = (Template::default(), cii(&document, Profile::En16931).expect("CII"));
        let bytes = facturx(&document, &template).expect("a PDF");
        assert!(bytes.len() > pdf(&document, &template).expect("a PDF").len());
        let Some(python) = en16931::python() else { return };
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &bytes).expect("written");
        let mut command = std::process::Command::new(python);
        let output = command.args(["-c", EXTRACT]).arg(file.path()).output().expect("python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), xml);
    }
}
