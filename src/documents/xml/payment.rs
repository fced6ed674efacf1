//! How a document is paid: BG-16. The codes of means are those of UNTDID 4461.

use en16931::invoice::{Code, CreditTransfer, PaymentInstructions, PaymentMeans};

use super::invoice::filled;
use crate::documents::content::{Document, DocumentKind, PaymentAccount};
use crate::documents::languages::Labels;

const CREDIT_TRANSFER: &str = "30";
const SEPA_CREDIT_TRANSFER: &str = "58";
const ONLINE_SERVICE: &str = "68";
/// The parties settle it between them.
const CLEARING: &str = "97";

/// The standard has one means of payment: accounts with an IBAN if there are any, else accounts at a bank,
/// else services such as PayPal. Nobody pays a credit note to an account, so it may lack them.
pub(super) fn instructions(document: &Document, labels: &Labels) -> Option<PaymentInstructions> {
    let is_euro = document.currency.eq_ignore_ascii_case("eur");
    let by_iban = if is_euro { SEPA_CREDIT_TRANSFER } else { CREDIT_TRANSFER };
    let number_at_bank = |account: &PaymentAccount| account.number.clone().filter(|_| account.bank.is_some());
    let services = || {
        let name = |account: &PaymentAccount| match &account.number {
            Some(number) => format!("{}: {number}", account.name),
            None => account.name.clone(),
        };
        let names: Vec<String> = document.payment_accounts.iter().map(name).collect();
        match document.kind {
            _ if !names.is_empty() => Some(by_text(ONLINE_SERVICE, names.join(", "))),
            DocumentKind::CreditNote => Some(by_text(CLEARING, labels.credit_total.clone())),
            DocumentKind::Invoice => None,
        }
    };
    let instructions = transfers(document, by_iban, |account| account.iban.clone())
        .or_else(|| transfers(document, CREDIT_TRANSFER, number_at_bank))
        .or_else(services)?;
    Some(PaymentInstructions { remittance_information: document.number.clone(), ..instructions })
}

/// Transfers to the accounts that have a `number`.
fn transfers(
    document: &Document,
    code: &str,
    number: impl Fn(&PaymentAccount) -> Option<String>,
) -> Option<PaymentInstructions> {
    let transfer = |account: &PaymentAccount| {
        Some(CreditTransfer {
            account_identifier: Some(filled(number(account).as_deref())?.replace(' ', "")),
            account_name: filled(account.holder.as_deref()),
            provider_identifier: filled(account.bic.as_deref()),
        })
    };
    let transfers: Vec<CreditTransfer> = document.payment_accounts.iter().filter_map(transfer).collect();
    let means_code = Some(Code::new(code));
    let means = Some(PaymentMeans::CreditTransfer(transfers.clone()));
    (!transfers.is_empty()).then_some(PaymentInstructions { means_code, means, ..Default::default() })
}

fn by_text(code: &str, text: String) -> PaymentInstructions {
    PaymentInstructions { means_code: Some(Code::new(code)), means_text: Some(text), ..Default::default() }
}
