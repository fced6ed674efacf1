//! Documents as PDF files, made of the same page as the HTML.
//!
//! The file is PDF/A-3u (ISO 19005-3): fonts are embedded, text can be read back, and files may be attached.
//! It says the issue date as its date of creation, and nothing in it comes from a clock, the machine or
//! chance. This is the only file that knows the library that sets pages.
//!
//! The fonts are Inter, regular and semibold, under the SIL Open Font License (`fonts/LICENSE.txt`).

use std::sync::{Arc, LazyLock};

use chrono::{Datelike, NaiveDate};
use takumi_core::Fonts;
use takumi_core::html::{FromHtmlOptions, ParsedHtml, parse_html};
use takumi_core::resources::font::FontResource;
use takumi_core::style::{Lang, StyleSheet};
use takumi_pdf::{
    Attachment, AttachmentRelationship, PageMargin, PageMargins, PageOptions, PdfDate, PdfError, PdfMetadata,
    PdfOptions, PdfStandard, XmpProperty, XmpSchema,
};

use super::Error;
use super::content::Document;
use super::html::Template;

static FONTS: LazyLock<Fonts> = LazyLock::new(|| {
    let mut fonts = Fonts::default();
    for font in
        [&include_bytes!("fonts/Inter-Regular.woff2")[..], include_bytes!("fonts/Inter-SemiBold.woff2")]
    {
        fonts.register(FontResource::new(font)).expect("a test reads the bundled fonts");
    }
    fonts
});

/// What a template writes at the foot of each page of the PDF. Browsers do not show it.
const FOOT: (&str, &str) = ("<template id=\"page-foot\">", "</template>");

/// The name that Factur-X gives to the file in the PDF.
const FACTURX: &str = "factur-x.xml";

/// In CSS pixels, of which an inch has 96.
const MARGIN: PageMargins = PageMargins {
    top: PageMargin::Px(56.0),
    right: PageMargin::Px(64.0),
    bottom: PageMargin::Px(72.0),
    left: PageMargin::Px(64.0),
};

/// The document as PDF/A-3, on A4.
///
/// # Errors
///
/// [`Error::UnknownLanguage`]; [`Error::Template`] if the template fails with this document;
/// [`Error::MissingSign`] for characters that no font has; [`Error::Pdf`].
pub fn pdf(document: &Document, template: &Template) -> Result<Vec<u8>, Error> {
    write(document, template, metadata(document), Vec::new())
}

/// The PDF with the document as CII in it, as Factur-X 1.0 names and describes it (section 6.2).
pub(super) fn with_facturx(document: &Document, template: &Template, cii: String) -> Result<Vec<u8>, Error> {
    let property = |name: &str, value: &str, description: &str| XmpProperty {
        name: name.to_owned(),
        value: value.to_owned(),
        description: description.to_owned(),
    };
    let schema = XmpSchema {
        name: "Factur-X PDFA Extension Schema".to_owned(),
        prefix: "fx".to_owned(),
        namespace: "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#".to_owned(),
        properties: vec![
            property("DocumentType", "INVOICE", "The type of the hybrid document"),
            property("DocumentFileName", FACTURX, "The name of the embedded XML document"),
            property("Version", "1.0", "The version of the standard"),
            property("ConformanceLevel", "EN 16931", "The conformance level of the XML document"),
        ],
    };
    let attachment = Attachment {
        name: FACTURX.to_owned(),
        data: cii.into_bytes(),
        mime_type: Some("text/xml".to_owned()),
        description: Some("Factur-X".to_owned()),
        relationship: AttachmentRelationship::Alternative,
        modification_date: None,
    };
    let metadata = PdfMetadata { xmp: vec![schema], ..metadata(document) };
    write(document, template, metadata, vec![attachment])
}

fn write(
    document: &Document,
    template: &Template,
    metadata: PdfMetadata,
    attachments: Vec<Attachment>,
) -> Result<Vec<u8>, Error> {
    let html = template.render(document)?;
    let (page, foot) = without_foot(&html);
    let page = parsed(&page)?;
    let foot = parsed(foot)?;
    let options = PdfOptions::builder()
        .node(page.node)
        .stylesheet(Arc::new(StyleSheet::parse_owned_list_loosy(page.css)))
        .page(PageOptions { margin: MARGIN, ..PageOptions::A4 })
        .fonts(&FONTS)
        .footer(foot.node)
        .standard(PdfStandard::A3u)
        .lang(Lang::parse(&document.language).ok())
        .metadata(metadata)
        .attachments(attachments)
        .build();
    takumi_pdf::render(options).map_err(|error| match error {
        PdfError::UncoveredCharacters(characters) => Error::MissingSign(characters),
        error => Error::Pdf(error.to_string().trim_end_matches('.').to_owned()),
    })
}

/// The page without the text for its foot, and that text.
fn without_foot(html: &str) -> (String, &str) {
    let parts = html.split_once(FOOT.0).and_then(|(before, rest)| {
        let (foot, after) = rest.split_once(FOOT.1)?;
        Some((before, foot, after))
    });
    parts.map_or((html.to_owned(), ""), |(before, foot, after)| ([before, after].concat(), foot))
}

fn parsed(html: &str) -> Result<ParsedHtml, Error> {
    parse_html(html, FromHtmlOptions::default()).map_err(|error| Error::Pdf(error.to_string()))
}

fn metadata(document: &Document) -> PdfMetadata {
    PdfMetadata {
        title: document.number.clone().or_else(|| Some(document.id.clone())),
        authors: vec![document.seller.name.clone()],
        creator: Some("Coulomb".to_owned()),
        creation_date: Some(at_midnight(document.issue_date)),
        ..PdfMetadata::default()
    }
}

fn at_midnight(date: NaiveDate) -> PdfDate {
    PdfDate {
        year: u16::try_from(date.year()).unwrap_or_default(),
        month: u8::try_from(date.month()).unwrap_or_default(),
        day: u8::try_from(date.day()).unwrap_or_default(),
        hour: 0,
        minute: 0,
        second: 0,
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::documents::samples;

    fn has(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[test]
    fn the_same_document_gives_the_same_bytes_on_any_machine() {
        let template = Template::default();
        let once = pdf(&samples::invoice("de"), &template).unwrap();
        assert_eq!(pdf(&samples::invoice("de"), &template).unwrap(), once);
        // A new template or another version of a library changes it. Look at the new file before you say so.
        let digest = hex::encode(Sha256::digest(&once));
        expect_test::expect!["b3e441106e0d3b291796c4518262d3ded81cfc24b68f4c7f4e9a02d9ba3609b7"]
            .assert_eq(&digest);
    }

    #[test]
    fn the_file_is_an_archive_dated_at_the_issue() {
        let bytes = pdf(&samples::invoice("en"), &Template::default()).unwrap();
        assert!(has(&bytes, "<pdfaid:part>3</pdfaid:part>"));
        assert!(has(&bytes, "<pdfaid:conformance>U</pdfaid:conformance>"));
        assert!(has(&bytes, "<xmp:CreateDate>2026-12-01T00:00:00"));
        assert!(!has(&bytes, "factur-x.xml"));
        let hybrid = with_facturx(&samples::invoice("en"), &Template::default(), "<x/>".to_owned()).unwrap();
        assert!(has(&hybrid, "<fx:DocumentFileName>factur-x.xml</fx:DocumentFileName>"));
        assert!(has(&hybrid, "/AFRelationship/Alternative"));
    }

    #[test]
    fn a_character_without_a_sign_is_named() {
        let mut document = samples::invoice("en");
        for text in ["Łódź Đà Nẵng İğdır Αθήνα Київ", "€ £ $ ¥ ₫ ₺ ₹ ₽ ₦ ₱ ₩ ₪ ₴ ₸", "a\u{ad}b\tc\nd"]
        {
            document.lines[0].description = text.to_owned();
            pdf(&document, &Template::default()).expect(text);
        }
        document.lines[0].description = "東 plan".to_owned();
        let error = pdf(&document, &Template::default()).unwrap_err().to_string();
        assert!(error.contains('東') && error.contains("U+6771"), "{error}");
    }

    #[test]
    fn a_table_repeats_its_head_and_pages_are_numbered() {
        let mut document = samples::invoice("en");
        let line = document.lines[0].clone();
        document.lines =
            (1..=120).map(|number| super::super::content::Line { number, ..line.clone() }).collect();
        let template = Template::parse(
            "<style>table { border-collapse: collapse } td, th { padding: 0 }
             th { height: 200px } td { height: 40px }</style>
             <table><thead><tr><th>Head</th></tr></thead><tbody>
             {% for line in lines %}<tr><td>{{ line.number }}</td></tr>{% endfor %}</tbody></table>
             <template id=\"page-foot\"><span class=pageNumber></span></template>",
        );
        let bytes = pdf(&document, &template.unwrap()).unwrap();
        // 995 pixels of a page hold 19 rows below a head, and 24 without one, which would make 6 pages.
        assert!(has(&bytes, "/Count 7"), "the head is not on every page");
    }

    #[test]
    fn a_picture_may_stand_in_the_template() {
        let dot = concat!(
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
            "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
        );
        let template =
            format!("<img src=\"data:image/png;base64,{dot}\" width=\"50\"><p>{{{{ title }}}}</p>");
        let bytes = pdf(&samples::invoice("en"), &Template::parse(&template).unwrap()).unwrap();
        assert!(has(&bytes, "/Subtype/Image"), "no picture");
    }

    #[test]
    fn words_without_end_and_long_texts_are_no_failure() {
        let mut document = samples::invoice("en");
        document.lines[0].description = "x".repeat(20_000);
        document.note = Some("word ".repeat(5_000));
        pdf(&document, &Template::default()).unwrap();
    }
}
