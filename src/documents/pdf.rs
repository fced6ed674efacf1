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
    PageMargin, PageMargins, PageOptions, PdfDate, PdfError, PdfMetadata, PdfOptions, PdfStandard,
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
    write(document, template)
}

fn write(document: &Document, template: &Template) -> Result<Vec<u8>, Error> {
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
        .metadata(metadata(document))
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
