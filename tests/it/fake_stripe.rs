//! The fake Stripe keeps Stripe's contract.

mod failures;
mod populated;
mod writes;

use serde_json::{Value, json};

use crate::support::fake_stripe::{FakeStripe, LIVE_KEY, TEST_KEY};

/// 10 October 2025, 00:00 UTC.
const MIDNIGHT: i64 = 1_760_054_400;

struct Client {
    fake: FakeStripe,
    http: reqwest::Client,
}

struct Reply {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text"))
    }

    fn ids(&self) -> Vec<&str> {
        let data = self.body["data"].as_array().unwrap_or_else(|| panic!("no list: {}", self.body));
        data.iter().map(|object| object["id"].as_str().expect("an id")).collect()
    }

    /// The ids of a page, and `+` if more follow.
    fn page(&self) -> String {
        let more = if self.body["has_more"] == true { "+" } else { "" };
        format!("{}{more}", self.ids().join(" "))
    }
}

fn client() -> Client {
    Client { fake: FakeStripe::start_at(MIDNIGHT), http: reqwest::Client::new() }
}

impl Client {
    async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        Reply { status, headers, body }
    }

    fn request(&self, method: &str, path: &str, key: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.http.request(method, format!("{}{path}", self.fake.url())).bearer_auth(key)
    }

    /// Sends a form.
    async fn post(&self, path: &str, form: &str) -> Reply {
        self.send(self.form(path, form)).await
    }

    fn form(&self, path: &str, form: &str) -> reqwest::RequestBuilder {
        self.request("POST", path, TEST_KEY).body(form.to_owned())
    }

    async fn get(&self, path: &str) -> Reply {
        let request = self.http.get(format!("{}{path}", self.fake.url())).bearer_auth(TEST_KEY);
        self.send(request).await
    }
}

#[tokio::test]
async fn lists_are_newest_first_with_cursors_and_windows() {
    let client = client();
    let account = client.fake.account("");
    // Two of one second: the later one is newer.
    for (id, second) in [("cus_1", 1), ("cus_2", 2), ("cus_3", 2), ("cus_4", 2), ("cus_5", 3)] {
        account.create("customer", json!({ "id": id, "created": MIDNIGHT + second }));
    }
    let cases = [
        ("", "cus_5 cus_4 cus_3 cus_2 cus_1"),
        ("limit=2", "cus_5 cus_4+"),
        ("limit=2&starting_after=cus_4", "cus_3 cus_2+"),
        ("limit=2&starting_after=cus_2", "cus_1"),
        ("limit=2&ending_before=cus_2", "cus_4 cus_3+"),
        ("limit=2&ending_before=cus_4", "cus_5"),
        ("created=1760054402", "cus_4 cus_3 cus_2"),
        ("created[gt]=1760054402", "cus_5"),
        ("created[gte]=1760054402", "cus_5 cus_4 cus_3 cus_2"),
        ("created[lt]=1760054402", "cus_1"),
        ("created[lte]=1760054402&created[gt]=1760054401", "cus_4 cus_3 cus_2"),
        ("created[gt]=1760054403&created[lt]=1760054402", ""),
        // The trap: in a window, the cursor loses the rest of its second.
        ("created[lte]=1760054402&limit=2", "cus_4 cus_3+"),
        ("created[lte]=1760054402&starting_after=cus_3", "cus_1"),
        ("created[gte]=1760054402&starting_after=cus_3", ""),
    ];
    for (query, page) in cases {
        assert_eq!(client.get(&format!("/v1/customers?{query}")).await.page(), page, "{query}");
    }
    client.fake.set_lossy_windows(false);
    let kept = client.get("/v1/customers?created[gte]=1760054402&starting_after=cus_3").await;
    assert_eq!(kept.page(), "cus_2");
}

#[tokio::test]
async fn wrong_parameters_are_refused_by_name() {
    let client = client();
    let types: String = (0..21).map(|n| format!("types[]=a.{n}&")).collect();
    let cases = [
        ("customers?limit=0", "parameter_invalid_integer limit"),
        ("customers?limit=101", "parameter_invalid_integer limit"),
        ("customers?starting_after=cus_9", "resource_missing starting_after"),
        ("customers?created[gte]=soon", "parameter_invalid_integer created"),
        ("customers?colour=red", "parameter_unknown colour"),
        ("tax_ids?created[gte]=1", "parameter_unknown created"),
        ("billing/meters?created[gte]=1", "parameter_unknown created"),
        ("test_helpers/test_clocks?created[gte]=1", "parameter_unknown created"),
        ("customers?expand[]=data.a.b.c.d", "- expand"),
        (&format!("events?{types}"), "- types"),
    ];
    for (path, refusal) in cases {
        let reply = client.get(&format!("/v1/{path}")).await;
        let error = &reply.body["error"];
        let text = |field: &str| error[field].as_str().unwrap_or("-").to_owned();
        assert_eq!(reply.status, 400, "{path}");
        assert_eq!(format!("{} {}", text("code"), text("param")), refusal, "{path}");
        assert_eq!(error["type"], "invalid_request_error", "{path}");
    }
}

#[tokio::test]
async fn default_filters_leave_out_what_stripe_leaves_out() {
    let client = client();
    let account = client.fake.account("");
    account.create("test_helpers.test_clock", json!({ "id": "clock_1", "frozen_time": MIDNIGHT }));
    account.create("customer", json!({ "id": "cus_1" }));
    account.create("customer", json!({ "id": "cus_2", "test_clock": "clock_1" }));
    account.create("product", json!({ "id": "prod_1" }));
    account.create("product", json!({ "id": "prod_2", "active": false }));
    let price = |id: &str, more: Value| {
        let mut fields = json!({ "id": id, "product": "prod_1", "unit_amount": 500 });
        fields.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        account.create("price", fields);
    };
    price("price_1", json!({}));
    price("price_2", json!({ "active": false }));
    price("price_3", json!({ "_inline": true }));
    for (id, customer, status) in
        [("sub_1", "cus_1", "active"), ("sub_2", "cus_1", "canceled"), ("sub_3", "cus_2", "active")]
    {
        let items = json!([{ "price": "price_1" }]);
        account.create(
            "subscription",
            json!({ "id": id, "customer": customer, "status": status, "items": items }),
        );
    }
    let cases = [
        ("customers", "cus_1"),
        ("customers?test_clock=clock_1", "cus_2"),
        ("products", "prod_2 prod_1"),
        ("products?active=false", "prod_2"),
        ("prices", "price_2 price_1"),
        ("prices?active=true", "price_1"),
        ("prices?active=false", "price_2"),
        ("subscriptions", "sub_1"),
        ("subscriptions?status=all", "sub_2 sub_1"),
        ("subscriptions?status=canceled", "sub_2"),
        ("subscriptions?status=ended", "sub_2"),
        ("subscriptions?test_clock=clock_1", "sub_3"),
        ("subscriptions?customer=cus_2", "sub_3"),
        ("subscriptions?customer=cus_1&status=all", "sub_2 sub_1"),
        ("subscriptions?status=all&price=price_9", ""),
        ("test_helpers/test_clocks", "clock_1"),
    ];
    for (path, page) in cases {
        assert_eq!(client.get(&format!("/v1/{path}")).await.page(), page, "{path}");
    }
    assert_eq!(client.get("/v1/prices/price_3").await.body["unit_amount"], 500);
}

#[tokio::test]
async fn deleted_objects_vanish_and_only_customers_answer() {
    let client = client();
    let account = client.fake.account("");
    account.create("customer", json!({ "id": "cus_1" }));
    account.create("product", json!({ "id": "prod_1" }));
    account.create("coupon", json!({ "id": "SAVE", "percent_off": 20 }));
    let sub = json!({ "id": "sub_1", "customer": "cus_1", "items": [] });
    account.create("subscription", sub);
    for (kind, id) in [("customer", "cus_1"), ("product", "prod_1"), ("coupon", "SAVE")] {
        account.delete(kind, id);
    }
    for kind in ["customers", "products", "coupons"] {
        assert_eq!(client.get(&format!("/v1/{kind}")).await.page(), "", "{kind}");
    }
    let gone = client.get("/v1/customers/cus_1").await;
    assert_eq!(
        (gone.status, gone.body),
        (200, json!({ "id": "cus_1", "object": "customer", "deleted": true }))
    );
    for path in ["products/prod_1", "coupons/SAVE", "invoices/in_1"] {
        let reply = client.get(&format!("/v1/{path}")).await;
        assert_eq!((reply.status, &reply.body["error"]["code"]), (404, &json!("resource_missing")), "{path}");
    }
    // Stripe ends the subscriptions of a deleted customer.
    assert_eq!(client.get("/v1/subscriptions/sub_1").await.body["status"], "canceled");
    let told: Vec<Value> = account.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(
        told[4..],
        ["customer.subscription.deleted", "customer.deleted", "product.deleted", "coupon.deleted"]
    );
}

#[tokio::test]
async fn lines_are_cut_at_ten_and_are_read_on_their_own() {
    let client = client();
    let account = client.fake.account("");
    let lines: Vec<Value> = (1..=23).map(|n| json!({ "id": format!("il_{n}"), "amount": n })).collect();
    let items: Vec<Value> = (1..=12).map(|n| json!({ "id": format!("li_{n}") })).collect();
    account.create("invoice", json!({ "id": "in_1", "lines": lines }));
    account.create("checkout.session", json!({ "id": "cs_1", "line_items": items }));
    // 1 + 2 + … + 23.
    let invoice = client.get("/v1/invoices/in_1").await.body;
    assert_eq!((&invoice["total"], &invoice["amount_due"]), (&json!(276), &json!(276)));
    let shown = &invoice["lines"];
    let count = shown["data"].as_array().map(Vec::len);
    assert_eq!((count, &shown["has_more"], &shown["total_count"]), (Some(10), &json!(true), &json!(23)));
    assert_eq!(account.events()[0]["data"]["object"]["lines"]["has_more"], true);
    let page = client.get("/v1/invoices/in_1/lines?limit=12&starting_after=il_10").await;
    assert_eq!(page.page(), "il_11 il_12 il_13 il_14 il_15 il_16 il_17 il_18 il_19 il_20 il_21 il_22+");
    assert_eq!(client.get("/v1/invoices/in_1/lines?starting_after=il_22").await.page(), "il_23");
    assert_eq!(client.get("/v1/invoices/in_1/lines?limit=2&ending_before=il_3").await.page(), "il_1 il_2");
    assert_eq!(
        client.get("/v1/checkout/sessions/cs_1/line_items?starting_after=li_11").await.page(),
        "li_12"
    );
    let session = client.get("/v1/checkout/sessions/cs_1").await.body;
    assert!(session.get("line_items").is_none());
    let session = client.get("/v1/checkout/sessions/cs_1?expand[]=line_items").await.body;
    assert_eq!(session["line_items"]["has_more"], true);
}

#[tokio::test]
async fn objects_are_found_by_what_they_name_and_expanded() {
    let client = client();
    let account = client.fake.account("");
    account.create("customer", json!({ "id": "cus_1", "name": "Acme" }));
    account.create("tax_id", json!({ "id": "txi_1", "customer": "cus_1" }));
    account.create("product", json!({ "id": "prod_1", "name": "Pro" }));
    account.create("price", json!({ "id": "price_1", "product": "prod_1", "unit_amount": 500 }));
    let items = json!([{ "id": "si_1", "price": "price_1" }]);
    account.create("subscription", json!({ "id": "sub_1", "customer": "cus_1", "items": items }));
    let parent = json!({ "subscription_details": { "subscription": "sub_1" } });
    account.create("invoice", json!({ "id": "in_1", "customer": "cus_1", "parent": parent }));
    account.create("invoice", json!({ "id": "in_2", "customer": "cus_1", "status": "void" }));
    let payment = json!({ "type": "payment_intent", "payment_intent": "pi_1" });
    account.create("invoice_payment", json!({ "id": "inpay_1", "invoice": "in_1", "payment": payment }));
    account.create(
        "charge",
        json!({ "id": "ch_1", "customer": "cus_1", "amount": 500, "payment_intent": "pi_1" }),
    );
    account.create("refund", json!({ "id": "re_1", "charge": "ch_1", "amount": 100 }));
    let lists = [
        ("customers/cus_1/tax_ids", "txi_1"),
        ("subscription_items?subscription=sub_1", "si_1"),
        ("invoices?subscription=sub_1", "in_1"),
        ("invoices?status=void", "in_2"),
        ("invoices?customer=cus_1&status=draft", "in_1"),
        ("invoices?customer=cus_2", ""),
        ("invoice_payments?invoice=in_1", "inpay_1"),
        ("invoice_payments?payment[type]=payment_intent&payment[payment_intent]=pi_1", "inpay_1"),
        ("invoice_payments?payment[type]=payment_intent&payment[payment_intent]=pi_2", ""),
        ("charges?payment_intent=pi_1", "ch_1"),
        ("refunds?charge=ch_1", "re_1"),
        ("subscriptions?price=price_1", "sub_1"),
    ];
    for (path, page) in lists {
        assert_eq!(client.get(&format!("/v1/{path}")).await.page(), page, "{path}");
    }
    let expanded = [
        ("charges/ch_1?expand[]=customer", "/customer/name", json!("Acme")),
        ("charges?expand[]=data.customer", "/data/0/customer/name", json!("Acme")),
        ("charges/ch_1?expand[]=refunds", "/refunds/data/0/id", json!("re_1")),
        ("invoices/in_1?expand[]=payments", "/payments/data/0/id", json!("inpay_1")),
        ("customers/cus_1?expand[]=tax_ids", "/tax_ids/data/0/id", json!("txi_1")),
        ("refunds/re_1?expand[]=charge.customer", "/charge/customer/id", json!("cus_1")),
        ("prices/price_1?expand[]=product", "/product/name", json!("Pro")),
    ];
    for (path, place, value) in expanded {
        let body = client.get(&format!("/v1/{path}")).await.body;
        assert_eq!(body.pointer(place), Some(&value), "{path}: {body}");
    }
    assert_eq!(client.get("/v1/charges/ch_1?expand[]=colour").await.status, 400);
}

#[tokio::test]
async fn events_tell_what_changed_for_thirty_days() {
    let client = client();
    let account = client.fake.account("");
    account.create("customer", json!({ "id": "cus_1", "metadata": { "org_id": "org_1", "old": "1" } }));
    account.create("invoice", json!({ "id": "in_1", "customer": "cus_1", "lines": [{ "amount": 700 }] }));
    client.fake.set_time(MIDNIGHT + 60);
    account.update("customer", "cus_1", json!({ "name": "Acme", "metadata": { "old": null } }));
    account.update("customer", "cus_1", json!({ "name": "Acme" }));
    account.update("invoice", "in_1", json!({ "status": "open" }));
    account.update("invoice", "in_1", json!({ "status": "paid" }));
    let types: Vec<Value> = account.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(
        types,
        [
            "customer.created",
            "invoice.created",
            "customer.updated",
            "invoice.updated",
            "invoice.finalized",
            "invoice.updated",
            "invoice.paid",
            "invoice.payment_succeeded"
        ]
    );
    let changed = client.get("/v1/events?type=customer.updated").await.body["data"][0].clone();
    assert_eq!(changed["data"]["previous_attributes"], json!({ "name": null, "metadata": { "old": "1" } }));
    assert_eq!(changed["data"]["object"]["metadata"], json!({ "org_id": "org_1" }));
    let of_two = client.get("/v1/events?types[]=invoice.paid&types[]=customer.created").await;
    assert_eq!(of_two.ids().len(), 2);
    assert_eq!(client.get("/v1/events?type=invoice.*&created[gt]=1760054400").await.ids().len(), 5);
    let paid = &account.events()[5]["data"]["previous_attributes"];
    assert_eq!((&paid["status"], &paid["amount_paid"]), (&json!("open"), &json!(0)));
    let first = account.events()[0]["id"].as_str().expect("an id").to_owned();
    client.fake.set_time(MIDNIGHT + 30 * 86_400 + 1);
    assert_eq!(client.get("/v1/events?limit=100").await.ids().len(), 6);
    assert_eq!(client.get(&format!("/v1/events/{first}")).await.status, 404);
}

#[tokio::test]
async fn keys_choose_mode_and_account_and_what_may_be_read() {
    let client = client();
    client.fake.connect("acct_1");
    client.fake.account("").create("customer", json!({ "id": "cus_test" }));
    client.fake.account_in("", true).create("customer", json!({ "id": "cus_live" }));
    client.fake.account("acct_1").create("customer", json!({ "id": "cus_connected" }));
    client.fake.restricted_key("rk_test_1", &["customer"]);
    let ask = async |path: &str, key: &str, account: &str| {
        let mut request = client.request("GET", path, key);
        if !account.is_empty() {
            request = request.header("Stripe-Account", account);
        }
        client.send(request).await
    };
    assert_eq!(ask("/v1/customers", TEST_KEY, "").await.page(), "cus_test");
    assert_eq!(ask("/v1/customers", LIVE_KEY, "").await.page(), "cus_live");
    assert_eq!(ask("/v1/customers", TEST_KEY, "acct_1").await.page(), "cus_connected");
    assert_eq!(ask("/v1/account", TEST_KEY, "acct_1").await.body["id"], "acct_1");
    assert_eq!(ask("/v1/accounts", TEST_KEY, "").await.page(), "acct_1");
    assert_eq!(ask("/v1/customers", TEST_KEY, "acct_2").await.status, 403);
    assert_eq!(ask("/v1/customers", "sk_test_other", "").await.status, 401);
    assert_eq!(ask("/v1/customers", "rk_test_1", "").await.page(), "cus_test");
    let refused = ask("/v1/invoices", "rk_test_1", "").await;
    let error = &refused.body["error"];
    assert_eq!((refused.status, &error["type"]), (403, &json!("invalid_request_error")));
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("rak_invoice_read") && !message.contains("rk_test_1"), "{message}");
    let answer = ask("/v1/account", "rk_test_1", "").await;
    assert_eq!(answer.header("date"), "Fri, 10 Oct 2025 00:00:00 GMT");
    assert_eq!(answer.header("stripe-version"), "2025-11-17.clover");
    assert!(answer.header("request-id").starts_with("req_"));
    let keys =
        client.fake.requests().iter().filter(|request| request.headers.contains_key("authorization")).count();
    assert_eq!(keys, 0);
}
