//! A fake Stripe to try Coulomb against: `cargo run --example fake_stripe -- --port 12111
//! --webhook http://127.0.0.1:8080/webhooks/stripe --secret whsec_test --objects 200`.

use std::process::ExitCode;

use serde_json::{Value, json};

#[path = "../tests/it/support/fake_stripe/mod.rs"]
#[allow(unreachable_pub, reason = "a library to the tests")]
mod fake_stripe;

use fake_stripe::{Account, FakeStripe, TEST_KEY};

/// What the command line asks for.
struct Options {
    port: u16,
    webhook: Option<String>,
    secret: String,
    objects: usize,
}

const USAGE: &str = "fake_stripe [--port 12111] [--webhook <address>] [--secret whsec_test] [--objects 200]";

fn options() -> Result<Options, String> {
    let mut options = Options { port: 12111, webhook: None, secret: "whsec_test".to_owned(), objects: 200 };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} needs a value. Usage: {USAGE}"))?;
        let number = || value.parse::<usize>().map_err(|_| format!("{name} needs a number, not {value}."));
        match name.as_str() {
            "--port" => {
                let port = u16::try_from(number()?);
                options.port = port.map_err(|_| "--port must be at most 65535.".to_owned())?;
            }
            "--webhook" => options.webhook = Some(value),
            "--secret" => options.secret = value,
            "--objects" => options.objects = number()?,
            _ => return Err(format!("There is no option {name}. Usage: {USAGE}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let fake = FakeStripe::start_at_port(options.port);
    let account = fake.account("");
    if let Some(webhook) = &options.webhook {
        fake.set_endpoint(webhook, &options.secret);
        fake.sign_in_real_time();
        fake.deliver_in_background();
    }
    if options.objects > 0 {
        account.populate(options.objects, 1);
    }
    let acme = make_acme(&account);
    print_help(&fake, &options, &account, &acme);
    loop {
        std::thread::park();
    }
}

/// A small account to read: an org, its plan's price, a price of usage with its meter, its subscription and
/// the first invoice.
fn make_acme(account: &Account) -> Value {
    account.create("product", json!({ "id": "prod_pro", "name": "Pro" }));
    account.create(
        "price",
        json!({ "id": "price_pro", "product": "prod_pro", "unit_amount": 2000, "nickname": "Pro, each month",
            "recurring": { "interval": "month" } }),
    );
    account.create(
        "customer",
        json!({ "id": "cus_acme", "name": "Acme", "email": "billing@acme.example",
            "metadata": { "org_id": "acme" },
            "invoice_settings": { "default_payment_method": "pm_acme" } }),
    );
    account.create(
        "billing.meter",
        json!({ "id": "mtr_llm", "display_name": "LLM tokens", "event_name": "llm_tokens",
            "event_time_window": "hour" }),
    );
    account.create(
        "price",
        json!({ "id": "price_llm", "product": "prod_pro", "unit_amount": null, "unit_amount_decimal": "0.5",
            "nickname": "A token", "recurring": { "interval": "month", "usage_type": "metered",
                "meter": "mtr_llm" } }),
    );
    let items = json!([{ "price": "price_pro", "quantity": 1 }, { "price": "price_llm" }]);
    account.subscribe(json!({ "id": "sub_acme", "customer": "cus_acme", "items": items }))
}

fn print_help(fake: &FakeStripe, options: &Options, account: &Account, acme: &Value) {
    let url = fake.url();
    println!("A fake Stripe listens on {url}. Its key is {TEST_KEY}.");
    for (kind, count) in account.counts() {
        println!("  {count:>6} × {kind}");
    }
    match &options.webhook {
        Some(webhook) => println!("Events go to {webhook}, signed with {}.", options.secret),
        None => println!("Events go nowhere; --webhook and --secret name a receiver."),
    }
    let invoice = acme["latest_invoice"].as_str().unwrap_or_default();
    println!(
        "The org acme is the customer cus_acme. Its subscription sub_acme has the prices price_pro \
         and price_llm (usage, meter mtr_llm), and its first invoice is {invoice}.\n\nTry:\n\
         curl {url}/v1/subscriptions/sub_acme -u {TEST_KEY}:\n\
         curl {url}/v1/events -u {TEST_KEY}:\n\
         curl -X POST '{url}/_fake/advance?days=32'\n\
         curl -X POST {url}/_fake/create/customer -d '{{\"metadata\":{{\"org_id\":\"new\"}}}}'\n\
         curl -X POST {url}/_fake/update/customer/cus_acme -d '{{\"name\":\"Acme & Co\"}}'\n\
         curl {url}/_fake/state"
    );
}
