//! Measures how fast the daemon acknowledges and projects deliveries, as ratios within one run.
//!
//! One daemon, its PostgreSQL (fsync on) and the load share the machine. The baseline is a route of the same
//! server that only reads the body and checks the signature. Run it with `cargo bench --bench webhooks`;
//! `-- 40000` sets the number of requests of a phase.

#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::{HttpRequest, HttpResponse, web};
use coulomb::api::stripe::webhook::verified_body;
use coulomb::app::App;
use coulomb::config::Config;
use coulomb::db::{self, Db, DbOptions, migrate};
use coulomb::error::Error;
use coulomb::server;
use coulomb::time::Clock;
use coulomb::workers::Workers;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use hmac::{Hmac, KeyInit, Mac};
use support::{Load, Postgres, load};

const SECRET: &str = "whsec_bench";
const CONNECTIONS: usize = 64;
const BODY_BYTES: usize = 4096;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "--serve") {
        return serve();
    }
    let requests = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(30_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(requests));
}

/// Runs the daemon with the baseline's route.
fn serve() {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL");
    migrate::run(&mut db::connect_as_login(&url).expect("connects")).expect("migrates");
    let config = Config::load(None).expect("settings");
    let db = Db::new(DbOptions {
        url,
        size: 4,
        wait: Duration::from_secs(1),
        statement_timeout: Duration::ZERO,
        lock_timeout: Duration::ZERO,
        silence: Duration::from_secs(60),
        roles: true,
    });
    let app = Arc::new(App::new(config, Clock::system(), db));
    actix_web::rt::System::new().block_on(async {
        let (server, address) = server::bind_with(&app, |config| {
            config.service(web::resource("/bench/signature").route(web::post().to(signature_only)));
        })
        .expect("binds");
        let _workers = Workers::start(&app);
        println!("{address}");
        std::io::stdout().flush().expect("prints");
        server.await.expect("serves");
    });
}

async fn signature_only(
    app: web::Data<App>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    verified_body(&app, &request, payload).await?;
    Ok(HttpResponse::Ok().json(coulomb::api::stripe::webhook::Received { received: true }))
}

struct Server {
    child: std::process::Child,
    address: String,
}

impl Server {
    fn start(postgres: &Postgres, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .arg("--serve")
            .env("DATABASE_URL", &postgres.url)
            .env("STRIPE_WEBHOOK_SECRET", SECRET)
            .env("COULOMB_STRIPE_MODE", "test")
            .env("COULOMB_LISTEN", "127.0.0.1:0")
            .env("COULOMB_LOG", "error")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs itself");
        let mut address = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut address).expect("it listens");
        Self { child, address: address.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn run(requests: usize) {
    let postgres = Postgres::start();
    let server = Server::start(&postgres, &[]);
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    let address = server.address.as_str();
    println!("{requests} requests a phase, {CONNECTIONS} connections, {BODY_BYTES}-byte bodies");

    load(address, &deliveries("/bench/signature", "warm", 2000), CONNECTIONS, None).await;
    let signature = load(address, &deliveries("/bench/signature", "base", requests), CONNECTIONS, None).await;
    print("signature only", &signature);

    load(address, &deliveries("/webhooks/stripe", "warm", 2000), CONNECTIONS, None).await;
    wait_until_projected(&mut conn).await;
    let sent = deliveries("/webhooks/stripe", "ack", requests);
    let started = Instant::now();
    let acknowledged = load(address, &sent, CONNECTIONS, None).await;
    print("acknowledged", &acknowledged);
    println!("  of the signature-only rate: {:.2}", acknowledged.rate() / signature.rate());
    let left = pending(&mut conn);
    wait_until_projected(&mut conn).await;
    let projected = requests as f64 / started.elapsed().as_secs_f64();
    println!(
        "projected           {projected:>9.0}/s from the first delivery of the burst to the last projection; \
            {left} were left when the burst ended"
    );
    println!("  of the acknowledged rate: {:.2}", projected / acknowledged.rate());

    let rate = acknowledged.rate() * 0.7;
    let paced =
        load(address, &deliveries("/webhooks/stripe", "paced", requests), CONNECTIONS, Some(rate)).await;
    print("at 70 % of that", &paced);
    wait_until_projected(&mut conn).await;

    // First a burst, then a tenth of the acknowledged rate: the backlog must shrink meanwhile.
    load(address, &deliveries("/webhooks/stripe", "burst", requests), CONNECTIONS, None).await;
    let (before, at) = (pending(&mut conn), Instant::now());
    let trickle = deliveries("/webhooks/stripe", "trickle", requests / 3);
    let steady = load(address, &trickle, CONNECTIONS, Some(acknowledged.rate() * 0.1)).await;
    let after = pending(&mut conn);
    print("trickle at 10 %", &steady);
    println!(
        "  backlog of the burst: {before} before, {after} after {:.1} s of trickle",
        at.elapsed().as_secs_f64()
    );
    wait_until_projected(&mut conn).await;
}

fn print(name: &str, load: &Load) {
    println!(
        "{name:<19} {:>9.0}/s  p50 {:>6.2} ms  p99 {:>6.2} ms  p99.9 {:>6.2} ms{}",
        load.rate(),
        load.quantile_ms(0.5),
        load.quantile_ms(0.99),
        load.quantile_ms(0.999),
        if load.bad > 0 { format!("  {} REFUSED", load.bad) } else { String::new() }
    );
}

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    count: i64,
}

/// Counts stored events that are not projected yet. It keeps one connection: starting a server process each
/// time would disturb the measurement.
fn pending(conn: &mut PgConnection) -> i64 {
    use diesel::RunQueryDsl;
    diesel::sql_query(
        "SELECT (SELECT coalesce(sum(deliveries), 0) FROM stripe_arrivals)::bigint + (SELECT count(*)
             FROM stripe_inbox_queue)
             + (SELECT count(*) FROM battery_effects_queue) AS count",
    )
    .get_result::<Count>(conn)
    .expect("counts")
    .count
}

async fn wait_until_projected(conn: &mut PgConnection) {
    // Ask seldom, because counting disturbs the measurement too.
    while pending(conn) > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Every phase starts in the same state: no checkpoint of the previous phase falls into it.
    conn.batch_execute("CHECKPOINT").expect("a checkpoint");
}

/// Signed deliveries of distinct paid invoices of `phase`, as whole HTTP requests.
fn deliveries(path: &str, phase: &str, count: usize) -> Vec<Vec<u8>> {
    let t = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let key = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    let template = template();
    (0..count)
        .map(|n| {
            let (created, customer) = (1_760_000_000 + n / 50, n % 5000);
            let body = template
                .replace("\"CREATED\"", &created.to_string())
                .replace("CUSTOMER", &format!("{customer:08}"))
                .replace("UNIQUE", &format!("{phase}{n:08}"));
            let mut mac = key.clone();
            mac.update(format!("{t}.").as_bytes());
            mac.update(body.as_bytes());
            let v1 = hex::encode(mac.finalize().into_bytes());
            let length = body.len();
            format!(
                "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nUser-Agent: \
                    Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n\
                 Stripe-Signature: t={t},v1={v1}\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        })
        .collect()
}

/// An `invoice.paid` with one line, of the usual length. The parts in capitals differ between events.
fn template() -> String {
    let line = serde_json::json!({ "id": "il_UNIQUE", "object": "line_item", "amount": 2000,
        "currency": "usd", "description": "1 × Pro (at $20.00 / month)", "quantity": 1,
        "discountable": true, "livemode": false, "metadata": {},
            "period": { "start": "CREATED", "end": "CREATED" }, "taxes": [], "discount_amounts": [],
        "pricing": { "type": "price_details",
            "price_details": { "price": "price_pro", "product": "prod_pro" }, "unit_amount_decimal": "2000" },
        "parent": { "type": "subscription_item_details",
            "subscription_item_details": { "subscription": "sub_CUSTOMER", "subscription_item": "si_CUSTOMER",
            "proration": false } } });
    let status = serde_json::json!({ "finalized_at": "CREATED", "paid_at": "CREATED", "voided_at": null,
        "marked_uncollectible_at": null });
    let mut invoice = serde_json::json!({ "id": "in_UNIQUE", "object": "invoice", "created": "CREATED",
        "customer": "cus_CUSTOMER", "customer_email": "someone@example.com",
        "status": "paid", "currency": "usd", "billing_reason": "subscription_cycle",
            "collection_method": "charge_automatically", "number": "A-UNIQUE" });
    let rest = serde_json::json!({ "subtotal": 2000, "total": 2000, "amount_due": 2000, "amount_paid": 2000,
        "amount_remaining": 0, "attempt_count": 1, "attempted": true,
        "period_start": "CREATED", "period_end": "CREATED",
            "hosted_invoice_url": "https://invoice.example.com/i/acct_1/test_UNIQUE",
            "status_transitions": status,
        "parent": { "type": "subscription_details",
            "subscription_details": { "subscription": "sub_CUSTOMER" } },
            "lines": { "object": "list", "has_more": false, "data": [line] },
        "metadata": {}, "total_taxes": [], "total_discount_amounts": [], "livemode": false });
    if let (Some(invoice), serde_json::Value::Object(rest)) = (invoice.as_object_mut(), rest) {
        invoice.extend(rest);
    }
    let mut event = serde_json::json!({ "id": "evt_UNIQUE", "object": "event", "type": "invoice.paid",
        "created": "CREATED", "livemode": false, "api_version": "2025-11-17.clover",
        "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null },
            "data": { "object": invoice } });
    // Other fields of a real invoice, which Coulomb does not read.
    let filler = [
        "account_tax_ids",
        "amount_shipping",
        "application",
        "automatically_finalizes_at",
        "custom_fields",
        "customer_address",
        "customer_phone",
        "customer_shipping",
        "customer_tax_ids",
    ];
    let mut n = 0;
    while event.to_string().len() < BODY_BYTES {
        event["data"]["object"][format!("{}_{n}", filler[n % filler.len()])] =
            serde_json::json!({ "type": null, "enabled": n % 3 == 0, "amount": n * 7919 });
        n += 1;
    }
    event.to_string()
}
