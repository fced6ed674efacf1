use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{ObjectRef, at, fixture, read, read_live, text, try_read};
use crate::billing::MirrorBatch;
use crate::billing::catalog::{Coupon, Price, Product, PromotionCode, TaxRate};
use crate::billing::checkout_sessions::{CheckoutLineItem, CheckoutSession, SessionWithItems};
use crate::billing::customers::{Customer, CustomerTaxId, Discount};
use crate::billing::subscriptions::{Subscription, SubscriptionItem};
use crate::stripe::Realm;

fn account() -> String {
    "acct_1".to_owned()
}

#[test]
fn customers() {
    let old = Customer {
        account: account(),
        livemode: true,
        id: "cus_1".to_owned(),
        name: None,
        email: text("ada@example.org"),
        description: text("Works account"),
        phone: None,
        currency: text("eur"),
        balance: Some(-250),
        delinquent: Some(true),
        tax_exempt: None,
        country: None,
        address: None,
        default_payment_method_id: None,
        default_source_id: text("card_1"),
        invoice_prefix: None,
        created: at(1_467_800_000),
        deleted: false,
        metadata: json!({"org_id": "org_1"}),
    };
    let batch = read_live(fixture!("customer_old"));
    assert_eq!(batch, MirrorBatch { customers: vec![old.clone()], ..Default::default() });
    let gone = try_read(&fixture!("customer_old"), true).unwrap();
    assert_eq!(gone.customers, [Customer { deleted: true, ..old }]);

    let new = Customer {
        account: account(),
        livemode: true,
        id: "cus_2".to_owned(),
        name: text("Bo & Co"),
        email: text("bo@example.org"),
        description: None,
        phone: text("+33 1"),
        currency: text("usd"),
        balance: Some(125),
        delinquent: Some(false),
        tax_exempt: text("reverse"),
        country: text("FR"),
        address: Some(json!({"city": "Lyon", "country": "FR", "line1": "1 rue A", "postal_code": "69001"})),
        default_payment_method_id: text("pm_1"),
        default_source_id: None,
        invoice_prefix: text("ABCD1234"),
        created: at(1_700_000_000),
        deleted: false,
        metadata: json!({}),
    };
    assert_eq!(read_live(fixture!("customer_new")).customers, [new]);
}

#[test]
fn tax_ids_and_discounts() {
    let tax_id = CustomerTaxId {
        account: account(),
        livemode: true,
        id: "txi_1".to_owned(),
        customer_id: text("cus_2"),
        type_: text("eu_vat"),
        value: text("DE123456789"),
        country: text("DE"),
        verification_status: text("verified"),
        created: at(1_700_000_001),
        deleted: false,
    };
    assert_eq!(read_live(fixture!("tax_id")).customer_tax_ids, [tax_id]);

    let old = Discount {
        account: account(),
        livemode: true,
        id: "di_1".to_owned(),
        customer_id: text("cus_1"),
        subscription_id: text("sub_1"),
        invoice_id: None,
        coupon_id: text("SUMMER"),
        promotion_code_id: text("promo_1"),
        starts_at: at(1_700_000_002),
        ends_at: at(1_700_600_000),
        deleted: false,
    };
    let new = Discount {
        id: "di_2".to_owned(),
        customer_id: text("cus_2"),
        subscription_id: None,
        invoice_id: text("in_2"),
        coupon_id: text("WINTER"),
        promotion_code_id: None,
        starts_at: at(1_700_000_003),
        ends_at: None,
        deleted: true,
        ..old.clone()
    };
    assert_eq!(read_live(fixture!("discount_old")).discounts, [old]);
    assert_eq!(try_read(&fixture!("discount_new"), true).unwrap().discounts, [new]);
}

#[test]
fn subscriptions_with_a_period_of_their_own() {
    let batch = read_live(fixture!("subscription_old"));
    let [read] = &*batch.subscriptions else { panic!("{batch:?}") };
    let expected = Subscription {
        account: account(),
        livemode: true,
        id: "sub_1".to_owned(),
        customer_id: text("cus_1"),
        status: text("past_due"),
        currency: text("usd"),
        collection_method: text("charge_automatically"),
        current_period_start: at(1_600_000_005),
        current_period_end: at(1_602_600_000),
        cancel_at: at(1_600_000_002),
        cancel_at_period_end: Some(true),
        canceled_at: at(1_600_000_003),
        ended_at: at(1_600_000_006),
        trial_start: at(1_600_000_012),
        trial_end: at(1_600_000_011),
        start_date: at(1_600_000_010),
        billing_cycle_anchor: at(1_600_000_001),
        latest_invoice_id: text("in_1"),
        schedule_id: text("sub_sched_1"),
        default_payment_method_id: text("pm_1"),
        pause_collection: text("void"),
        pause_resumes_at: at(1_600_000_009),
        description: text("Team plan"),
        items_complete: true,
        created: at(1_600_000_004),
        metadata: json!({"org_id": "org_1"}),
    };
    assert_eq!(read.subscription, expected);
    let first = SubscriptionItem {
        account: account(),
        livemode: true,
        subscription_id: "sub_1".to_owned(),
        item_number: 0,
        id: text("si_1"),
        price_id: text("price_1"),
        product_id: text("prod_1"),
        quantity: Some(3),
        current_period_start: None,
        current_period_end: None,
        created: at(1_600_000_007),
        metadata: json!({"seat": "yes"}),
        usage_type: None,
        stripe_meter_id: None,
    };
    let second = SubscriptionItem {
        item_number: 1,
        id: text("si_2"),
        price_id: text("meter_plan"),
        product_id: text("prod_2"),
        quantity: None,
        created: at(1_600_000_008),
        metadata: json!({}),
        ..first.clone()
    };
    assert_eq!(read.items, [first, second]);
}

#[test]
fn subscriptions_whose_items_have_the_periods() {
    let batch = read_live(fixture!("subscription_new"));
    let [read] = &*batch.subscriptions else { panic!("{batch:?}") };
    // The older shape, before items had periods of their own: the subscription has the period that ends
    // first.
    assert_eq!(read.subscription.current_period_start, at(1_750_000_100));
    assert_eq!(read.subscription.current_period_end, at(1_752_600_000));
    assert_eq!(read.subscription.currency, text("eur"));
    assert!(!read.subscription.items_complete, "has_more");
    let [first, second] = &*read.items else { panic!("{read:?}") };
    assert_eq!(
        (first.current_period_start, first.current_period_end),
        (at(1_750_000_100), at(1_752_600_000))
    );
    assert_eq!((&first.product_id, &second.product_id), (&text("prod_3"), &None));
    assert_eq!((&second.price_id, second.quantity), (&text("price_4"), Some(5)));
}

#[test]
fn a_subscription_to_one_plan_is_its_own_item() {
    let batch = read_live(fixture!("subscription_plan"));
    let [read] = &*batch.subscriptions else { panic!("{batch:?}") };
    let subscription = &read.subscription;
    assert_eq!((&subscription.currency, subscription.items_complete), (&text("gbp"), true));
    assert_eq!(
        (subscription.start_date, &subscription.collection_method),
        (at(1_300_000_002), &text("send_invoice"))
    );
    let [item] = &*read.items else { panic!("{read:?}") };
    assert_eq!((&item.id, &item.price_id, item.quantity), (&None, &text("gold"), Some(2)));
    assert_eq!((&item.product_id, &item.metadata), (&text("prod_0"), &json!({})));
}

#[test]
fn checkout_sessions() {
    let expected = CheckoutSession {
        account: account(),
        livemode: true,
        id: "cs_1".to_owned(),
        mode: text("payment"),
        status: text("complete"),
        payment_status: text("paid"),
        customer_id: text("cus_1"),
        customer_email: text("ada@example.org"),
        client_reference_id: text("org_1"),
        payment_intent_id: text("pi_1"),
        subscription_id: text("sub_1"),
        invoice_id: text("in_1"),
        payment_link_id: text("plink_1"),
        amount_subtotal: Some(25_000),
        amount_discount: Some(1_000),
        amount_tax: Some(2_500),
        amount_total: Some(26_500),
        currency: text("usd"),
        expires_at: at(1_750_086_480),
        created: at(1_750_000_080),
        metadata: json!({"pack": "500"}),
        line_items_complete: false,
    };
    let expected = SessionWithItems { session: expected, items: Vec::new() };
    assert_eq!(read_live(fixture!("checkout_session")).checkout_sessions, [expected]);
}

/// The line items as <https://docs.stripe.com/api/checkout/sessions/line_items> shows them.
#[test]
fn line_items_of_a_session() {
    let entry = json!({"object": "item", "id": "li_1", "amount_subtotal": 2198, "amount_discount": 98,
        "amount_tax": 210, "amount_total": 2310, "currency": "usd", "description": "Pack", "quantity": 2,
        "price": {"object": "price", "id": "price_1", "product": "prod_1", "unit_amount": 1099}});
    let session = json!({"object": "checkout.session", "id": "cs_1", "mode": "payment"});
    let item = CheckoutLineItem {
        account: String::new(),
        livemode: true,
        session_id: "cs_1".to_owned(),
        line_number: 0,
        id: text("li_1"),
        price_id: text("price_1"),
        product_id: text("prod_1"),
        quantity: Some(2),
        amount_subtotal: Some(2198),
        amount_discount: Some(98),
        amount_tax: Some(210),
        amount_total: Some(2310),
        currency: text("usd"),
        description: text("Pack"),
    };
    let realm = Realm { account: String::new(), livemode: true };
    let read_with = |session: &Value, more: Option<Value>| {
        let more = more.as_ref().map(Into::into);
        let object = ObjectRef {
            realm: &realm,
            object: "checkout.session",
            id: "cs_1",
            deleted: false,
            more: more.as_ref(),
        };
        let mut batch = MirrorBatch::default();
        read(&object, &session.into(), &mut batch).expect("readable");
        let [one] = &*batch.checkout_sessions else { panic!("{batch:?}") };
        (one.session.line_items_complete, one.items.clone())
    };
    assert_eq!(read_with(&session, None), (false, vec![]));
    assert_eq!(read_with(&session, Some(json!({"line_items": [entry]}))), (true, vec![item.clone()]));
    assert_eq!(read_with(&session, Some(json!({"line_items": []}))), (true, vec![]));
    let mut shown = session;
    shown["line_items"] = json!({"object": "list", "has_more": true, "data": [entry]});
    assert_eq!(read_with(&shown, None), (false, vec![item.clone()]), "a list cut off");
    shown["line_items"]["has_more"] = json!(false);
    assert_eq!(read_with(&shown, None), (true, vec![item]));
}

#[test]
fn products_and_prices() {
    let product = Product {
        account: account(),
        livemode: true,
        id: "prod_1".to_owned(),
        name: text("Seat"),
        description: text("A seat"),
        active: Some(true),
        unit_label: text("seat"),
        tax_code: text("txcd_1"),
        default_price_id: text("price_1"),
        created: at(1_600_000_090),
        deleted: true,
        metadata: json!({"tier": "team"}),
    };
    assert_eq!(try_read(&fixture!("product"), true).unwrap().products, [product]);
    let price = Price {
        account: account(),
        livemode: true,
        id: "price_1".to_owned(),
        product_id: text("prod_1"),
        active: Some(false),
        type_: text("recurring"),
        billing_scheme: text("per_unit"),
        currency: text("usd"),
        unit_amount: Some(3333),
        unit_amount_decimal: Some("3333.333333333333".parse().unwrap()),
        recurring_interval: text("month"),
        recurring_interval_count: Some(3),
        recurring_usage_type: text("licensed"),
        tiers_mode: text("graduated"),
        tax_behavior: text("exclusive"),
        lookup_key: text("team"),
        nickname: text("Team"),
        created: at(1_600_000_091),
        deleted: false,
        metadata: json!({"p": "q"}),
        stripe_meter_id: text("mtr_1"),
        transform_divide_by: Some(60),
    };
    assert_eq!(read_live(fixture!("price")).prices, [price]);
}

#[test]
fn coupons_codes_and_tax_rates() {
    let coupon = Coupon {
        account: account(),
        livemode: true,
        id: "SUMMER".to_owned(),
        name: text("Summer"),
        percent_off: Some(Decimal::new(125, 1)),
        amount_off: Some(700),
        currency: text("usd"),
        duration: text("repeating"),
        duration_in_months: Some(4),
        max_redemptions: Some(50),
        times_redeemed: Some(6),
        redeem_by: at(1_600_000_093),
        valid: Some(true),
        created: at(1_600_000_092),
        deleted: false,
        metadata: json!({"s": "u"}),
    };
    assert_eq!(read_live(fixture!("coupon")).coupons, [coupon]);
    let old = PromotionCode {
        account: account(),
        livemode: true,
        id: "promo_1".to_owned(),
        code: text("SAVE"),
        coupon_id: text("SUMMER"),
        customer_id: text("cus_1"),
        active: Some(true),
        max_redemptions: Some(8),
        times_redeemed: Some(2),
        expires_at: at(1_600_000_095),
        created: at(1_600_000_094),
        metadata: json!({"h": "i"}),
    };
    assert_eq!(read_live(fixture!("promotion_code_old")).promotion_codes, [old]);
    let new = read_live(fixture!("promotion_code_new"));
    assert_eq!(new.promotion_codes[0].coupon_id, text("WINTER"));
    let tax_rate = TaxRate {
        account: account(),
        livemode: true,
        id: "txr_1".to_owned(),
        display_name: text("Sales tax"),
        description: text("State tax"),
        percentage: Some(Decimal::new(7125, 3)),
        inclusive: Some(true),
        active: Some(true),
        country: text("US"),
        state: text("CA"),
        jurisdiction: text("US - CA"),
        tax_type: text("sales_tax"),
        created: at(1_600_000_096),
        metadata: json!({"r": "t"}),
    };
    assert_eq!(read_live(fixture!("tax_rate")).tax_rates, [tax_rate]);
}
