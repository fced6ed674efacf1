//! Documents as HTML pages, from a template that operators may replace.
//!
//! A template is Jinja without files, includes or a clock. What it can show is in [`super::page`]; all of it
//! is escaped. A name that does not exist is an error, so that a misspelt label never becomes an empty place.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

use super::content::Document;
use super::page::Page;
use super::{Error, pdf, samples};

/// The template that documents have unless the operator has another one.
const DEFAULT: &str = include_str!("template.html");
/// The name of the template within its environment.
const NAME: &str = "document";

/// How a document's page looks. The PDF is made of the same page.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
}

impl Default for Template {
    fn default() -> Self {
        Self::parse(DEFAULT).expect("a test renders it")
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] with the line, if it is not Jinja.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.set_debug(true);
        let added = environment.add_template_owned(NAME, text.to_owned());
        added.map_err(|error| explained(&error, text))?;
        Ok(Self { environment })
    }

    /// Renders sample documents of each kind and language as HTML and PDF, so that a template that fails does
    /// so when the daemon starts and not with a customer's invoice.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] with the line, or what the PDF could not show.
    pub fn check(&self) -> Result<(), Error> {
        for document in samples::documents() {
            pdf::pdf(&document, self)?;
        }
        Ok(())
    }

    /// The page with everything that the template writes.
    pub(super) fn render(&self, document: &Document) -> Result<String, Error> {
        let template = self.environment.get_template(NAME).map_err(|error| explained(&error, ""))?;
        template.render(Serde(Page::of(document)?)).map_err(|error| explained(&error, template.source()))
    }
}

/// The page of a document, for a browser.
///
/// # Errors
///
/// [`Error::UnknownLanguage`], and [`Error::Template`] if the template fails with this document.
pub fn html(document: &Document, template: &Template) -> Result<String, Error> {
    template.render(document)
}

fn explained(error: &minijinja::Error, source: &str) -> Error {
    let place = error.range().and_then(|range| source.get(range)).map(str::trim).unwrap_or_default();
    let problem = match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, _) if !place.is_empty() => format!("`{place}` does not exist"),
        (ErrorKind::UndefinedError, _) => "it names something that does not exist".to_owned(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    Error::Template { line: error.line(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of a page, each on a line: without its head and tags, and with ordinary spaces only.
    fn words(html: &str) -> String {
        let body = html.split_once("<body>").expect("a body").1;
        let texts = body.split('<').skip(1).map(|part| part.split_once('>').expect("a tag").1);
        let texts = texts.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        texts.filter(|text| !text.is_empty()).map(|text| text + "\n").collect()
    }

    #[test]
    fn the_page_of_an_invoice_says_all_that_is_in_it() {
        let page = html(&samples::invoice("de"), &Template::default()).unwrap();
        expect_test::expect![[r#"
            Beispiel Cloud
            Beispiel GmbH
            Hafenstraße 7 · 20457 Hamburg · DE
            USt-IdNr.: DE123456789 · Steuernummer: 22&#x2f;815&#x2f;08154 · Registernummer: HRB 12345
            Ansprechpartner: Erika Muster · Telefon: +49 40 1234560 · E-Mail: billing@seller.example
            Rechnung
            2026-00042
            Rechnung an
            Exemple S.A.S.
            12 rue de l’Exemple
            75011 Paris
            FR
            USt-IdNr.: FR12345678901
            Datum
            01.12.2026
            Leistung
            01.11.2026 – 30.11.2026
            Fällig am
            15.12.2026
            Ihre Referenz
            04011000-12345-34
            Bestellnummer
            PO-7731
            Pos.
            Beschreibung
            Menge
            Einzelpreis
            Steuer
            Betrag
            1
            Pro
            01.12.2026 – 31.12.2026
            1
            49,00 €
            19 %
            49,00 €
            2
            Tokens
            12.345.678
            tokens
            0,40 €
            je 1.000.000 tokens
            19 %
            4,94 €
            3
            Handbook
            1
            20,00 €
            0 %
            20,00 €
            Rabatt: Welcome (10 %)
            19 %
            −5,39 €
            Steuer nach Satz
            Bemessungsgrundlage
            Steuer
            VAT 19 %
            48,55 €
            9,22 €
            VAT 0 %
            Nullsatz.
            20,00 €
            0,00 €
            Zwischensumme
            73,94 €
            Rabatt
            −5,39 €
            Summe ohne Steuer
            68,55 €
            Steuer
            9,22 €
            Gesamtbetrag
            77,77 €
            Aus Guthaben bezahlt: 2026-C0007
            −7,77 €
            Zu zahlen
            70,00 €
            Zahlung
            Verwendungszweck:
            2026-00042
            SEPA
            Kontoinhaber
            Beispiel GmbH
            Bank
            Beispielbank
            IBAN
            DE02 1203 0000 0000 2020 51
            BIC
            BYLADEM1001
            PayPal
            Konto
            pay@seller.example
            Zahlungsbedingungen
            14 days.
            Hinweis
            &lt;b&gt;Thank you &amp; see you&lt;&#x2f;b&gt;
            Beispiel GmbH
            Rechnung 2026-00042 · Seite
            von
        "#]]
        .assert_eq(&words(&page));
    }

    #[test]
    fn the_page_of_a_credit_note_names_the_invoice_and_the_reason() {
        let page = html(&samples::credit_note("en"), &Template::default()).unwrap();
        expect_test::expect![[r#"
            Beispiel Cloud
            Beispiel GmbH
            Hafenstraße 7 · 20457 Hamburg · DE
            VAT ID: DE123456789 · Tax number: 22&#x2f;815&#x2f;08154 · Registration number: HRB 12345
            Contact: Erika Muster · Phone: +49 40 1234560 · E-mail: billing@seller.example
            Credit note
            2026-C0008
            Bill to
            Exemple S.A.S.
            12 rue de l’Exemple
            75011 Paris
            FR
            VAT ID: FR12345678901
            Date
            1 Dec 2026
            Supply
            1 Nov 2026 – 30 Nov 2026
            For invoice
            2026-00042 of 1 Dec 2026
            Reason
            SLA
            Your reference
            04011000-12345-34
            Purchase order
            PO-7731
            No.
            Description
            Quantity
            Unit price
            Tax
            Amount
            1
            Pro
            1
            €49.00
            0%
            €49.00
            Tax by rate
            Taxable amount
            Tax
            VAT 0%
            Reverse charge: the recipient owes the tax.
            €49.00
            €0.00
            Total without tax
            €49.00
            Tax
            €0.00
            Total
            €49.00
            Amount credited
            €49.00
            Beispiel GmbH
            Credit note 2026-C0008 · Page
            of
        "#]]
        .assert_eq(&words(&page));
    }

    #[test]
    fn what_a_customer_wrote_is_never_markup() {
        let mut document = samples::invoice("en");
        document.lines[0].description = "<script>alert(1)</script>".to_owned();
        document.seller.name = "</template><img src=x>".to_owned();
        let page = html(&document, &Template::default()).unwrap();
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    }

    #[test]
    fn a_wrong_template_is_one_sentence_with_its_line() {
        for (template, expected) in [
            (
                "<p>\n{% for line in lines %}</p>",
                "The template is wrong in line 2: unexpected end of input, expected end of block.",
            ),
            ("\n\n{{ seler.name }}", "The template is wrong in line 3: `seler.name` does not exist."),
            ("{{ seller.nam }}", "The template is wrong in line 1: `seller.nam` does not exist."),
            ("{{ number | upcase }}", "The template is wrong in line 1: filter upcase is unknown."),
            ("{% include 'x' %}", "The template is wrong in line 1: unknown statement include."),
        ] {
            let error = Template::parse(template).and_then(|template| template.check()).expect_err(template);
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn the_default_template_shows_every_sample() {
        Template::default().check().unwrap();
    }
}
