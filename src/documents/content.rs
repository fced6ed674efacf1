//! The content of an invoice or a credit note: all that the customer sees.
//!
//! It follows the model of EN 16931, so that an e-invoice is another way to write what is here already. The
//! content of a finalised document is stored as canonical JSON with its SHA-256 digest and never changes.
//! Every form of the document (HTML, PDF, XML) is made of this content alone.

use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Invoice or credit note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    /// Asks for money.
    Invoice,
    /// Takes back all or part of an invoice.
    CreditNote,
}

/// All that an invoice or a credit note says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DocumentContent)]
pub struct Document {
    /// `inv_…` or `cn_…`
    pub id: String,
    /// Invoice or credit note.
    pub kind: DocumentKind,
    /// Its number in the gapless series of the seller; null for a draft.
    pub number: Option<String>,
    /// The day on which it was issued, in the seller's zone; for a draft the day of the preview.
    pub issue_date: NaiveDate,
    /// The day until which it is to be paid.
    pub due_date: Option<NaiveDate>,
    /// First day of what was supplied.
    pub supply_from: Option<NaiveDate>,
    /// Last day of what was supplied, included.
    pub supply_to: Option<NaiveDate>,
    /// ISO 4217, lower case. All amounts are in its minor units.
    pub currency: String,
    /// Language of the document: ISO 639-1.
    pub language: String,
    /// Whether prices and amounts of the lines include the tax.
    pub tax_inclusive: bool,
    /// Who sells.
    pub seller: Party,
    /// Who buys.
    pub buyer: Party,
    /// What the buyer wants to find on it, such as a Leitweg-ID.
    pub buyer_reference: Option<String>,
    /// The buyer's purchase order.
    pub purchase_order: Option<String>,
    /// The invoice that a credit note takes back.
    pub invoice: Option<InvoiceReference>,
    /// Why a credit note was made.
    pub reason: Option<String>,
    /// What is sold, or taken back. Amounts of a credit note are above 0.
    pub lines: Vec<Line>,
    /// Discounts, one for each coupon and tax rate.
    pub allowances: Vec<Allowance>,
    /// Tax, one for each category and rate.
    pub taxes: Vec<TaxSubtotal>,
    /// Sums.
    pub totals: Totals,
    /// Earlier credit that pays a part of the invoice.
    pub credits: Vec<AppliedCredit>,
    /// Where to pay.
    pub payment_accounts: Vec<PaymentAccount>,
    /// Terms of payment, for people.
    pub terms: Option<String>,
    /// What else is to be said.
    pub note: Option<String>,
}

/// The document that a credit note refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvoiceReference {
    /// `inv_…`
    pub id: String,
    /// Its number.
    pub number: String,
    /// When it was issued.
    pub issue_date: NaiveDate,
}

/// Seller or buyer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DocumentParty)]
pub struct Party {
    /// Registered name.
    pub name: String,
    /// Name under which it trades, if that is another one.
    #[serde(default)]
    pub trading_name: Option<String>,
    /// Where it is.
    #[serde(default)]
    pub address: Address,
    /// VAT identification number, with the prefix of its country: `DE123456789`.
    #[serde(default)]
    pub vat_id: Option<String>,
    /// Tax number that is not a VAT id.
    #[serde(default)]
    pub tax_number: Option<String>,
    /// Number in the register of companies.
    #[serde(default)]
    pub registration_number: Option<String>,
    /// Where to write to.
    #[serde(default)]
    pub email: Option<String>,
    /// Where to call.
    #[serde(default)]
    pub phone: Option<String>,
    /// Whom to ask.
    #[serde(default)]
    pub contact: Option<String>,
    /// Where e-invoices are delivered to.
    #[serde(default)]
    pub electronic_address: Option<ElectronicAddress>,
}

/// A postal address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PostalAddress)]
pub struct Address {
    /// Street and number.
    #[serde(default)]
    pub line1: Option<String>,
    /// What follows it.
    #[serde(default)]
    pub line2: Option<String>,
    /// Post code.
    #[serde(default)]
    pub postal_code: Option<String>,
    /// City.
    #[serde(default)]
    pub city: Option<String>,
    /// State or province.
    #[serde(default)]
    pub region: Option<String>,
    /// ISO 3166-1 alpha-2, upper case.
    #[serde(default)]
    pub country: Option<String>,
}

/// An address for e-invoices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ElectronicAddress {
    /// Code of the Electronic Address Scheme list: `9930` German VAT id, `0088` GLN, `EM` e-mail.
    pub scheme: String,
    /// The address.
    pub id: String,
}

/// What a line charges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DocumentLineKind)]
pub enum LineKind {
    /// The fee of a plan for a period.
    Fee,
    /// Usage of a period.
    Usage,
    /// What lacks to the agreed minimum of a period.
    Minimum,
    /// The part of a fee that a change within a period charges or gives back.
    Proration,
    /// Anything else.
    Item,
}

impl LineKind {
    /// The name in the database and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fee => "fee",
            Self::Usage => "usage",
            Self::Minimum => "minimum",
            Self::Proration => "proration",
            Self::Item => "item",
        }
    }
}

/// A line of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DocumentLine)]
pub struct Line {
    /// From 1 on, without gaps. A line of a credit note has the number of the invoice's line.
    pub number: i32,
    /// What it charges for.
    pub kind: LineKind,
    /// What it is, in the customer's language.
    pub description: String,
    /// How many.
    #[schema(value_type = String)]
    pub quantity: Decimal,
    /// What is counted; null: pieces.
    pub unit: Option<String>,
    /// Price of `base_quantity` units, in major units; with tax if the document is tax inclusive.
    #[schema(value_type = String)]
    pub unit_price: Decimal,
    /// For how many units the price is.
    #[schema(value_type = String)]
    pub base_quantity: Decimal,
    /// Quantity × price, rounded: with tax if the document is tax inclusive, before discounts.
    pub amount: i64,
    /// Its part of the discounts; with tax if the document is tax inclusive.
    pub discount: i64,
    /// `amount` without tax.
    pub net: i64,
    /// Its part of the tax, after discounts.
    pub tax: i64,
    /// Category of tax.
    pub tax_category: TaxCategory,
    /// Rate of tax in percent.
    #[schema(value_type = String)]
    pub tax_percent: Decimal,
    /// First day of what it charges for.
    pub from: Option<NaiveDate>,
    /// Last day of what it charges for, included.
    pub to: Option<NaiveDate>,
}

/// Category of value added tax: the code list UNTDID 5305 as EN 16931 restricts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum TaxCategory {
    /// Standard or reduced rate.
    S,
    /// Zero rate.
    Z,
    /// Exempt.
    E,
    /// Reverse charge: the buyer owes the tax.
    AE,
    /// Supply within the European Union, exempt.
    K,
    /// Export out of the European Union, exempt.
    G,
    /// Outside the scope of the tax.
    O,
}

impl TaxCategory {
    /// The code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::S => "S",
            Self::Z => "Z",
            Self::E => "E",
            Self::AE => "AE",
            Self::K => "K",
            Self::G => "G",
            Self::O => "O",
        }
    }
}

/// A discount on the document, for the lines of one tax rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DocumentAllowance)]
pub struct Allowance {
    /// Code of the coupon.
    pub coupon: String,
    /// What people call it.
    pub name: String,
    /// Its percentage; null: a fixed amount.
    #[schema(value_type = Option<String>)]
    pub percent: Option<Decimal>,
    /// With tax if the document is tax inclusive.
    pub amount: i64,
    /// `amount` without tax.
    pub net: i64,
    /// Category of tax of the lines.
    pub tax_category: TaxCategory,
    /// Rate of tax of the lines, in percent.
    #[schema(value_type = String)]
    pub tax_percent: Decimal,
}

/// The tax of one category and rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DocumentTax)]
pub struct TaxSubtotal {
    /// What people call it: `VAT`, `PPN`.
    pub name: String,
    /// Category of tax.
    pub category: TaxCategory,
    /// Rate in percent.
    #[schema(value_type = String)]
    pub percent: Decimal,
    /// What the tax is on: without tax, after discounts.
    pub base: i64,
    /// The tax.
    pub tax: i64,
    /// Why there is none, for people.
    pub exemption_reason: Option<String>,
    /// The same as a code of the VATEX list, such as `VATEX-EU-AE`.
    pub exemption_code: Option<String>,
}

/// Sums of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DocumentTotals)]
pub struct Totals {
    /// Sum of the lines as priced, before discounts: with tax if the document is tax inclusive.
    pub subtotal: i64,
    /// Sum of the discounts, as priced.
    pub discount: i64,
    /// Sum of `net` of the lines: without tax, before discounts.
    pub lines_net: i64,
    /// Sum of `net` of the allowances.
    pub allowances_net: i64,
    /// Without tax, after discounts: `lines_net` − `allowances_net`.
    pub net: i64,
    /// Sum of the taxes.
    pub tax: i64,
    /// `net` + `tax`.
    pub total: i64,
    /// What earlier credit pays.
    pub credited: i64,
    /// What was to be paid when it was issued: `total` − `credited`.
    pub due: i64,
}

/// Earlier credit (an overpayment, a credit note) that pays a part of an invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppliedCredit {
    /// Where it comes from, for people.
    pub description: String,
    /// How much of it.
    pub amount: i64,
}

/// An account of the seller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DocumentPaymentAccount)]
pub struct PaymentAccount {
    /// What people call it: `Bank transfer`, `PayPal`.
    pub name: String,
    /// Whose account it is.
    pub holder: Option<String>,
    /// Name of the bank.
    pub bank: Option<String>,
    pub iban: Option<String>,
    pub bic: Option<String>,
    /// Number of an account without an IBAN, or an address such as that of a PayPal account.
    pub number: Option<String>,
}
