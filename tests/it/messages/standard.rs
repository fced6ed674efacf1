//! Messages are as Standard Webhooks 1.0.0 says: its own libraries accept them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{endpoint, on, world};
use crate::support::receiver::{Received, Receiver};

const PYTHON: &str = "
import json, sys
from standardwebhooks.webhooks import Webhook
told = json.load(sys.stdin)
def accepts(body):
    try:
        Webhook(told['secret']).verify(body, told['headers'])
        return True
    except Exception:
        return False
print(json.dumps([accepts(told['body']), accepts(told['body'] + ' ')]))
";

const NODE: &str = "
const { Webhook } = require('standardwebhooks');
const told = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const accepts = (body) => {
    try { new Webhook(told.secret).verify(body, told.headers); return true; } catch { return false; }
};
console.log(JSON.stringify([accepts(told.body), accepts(told.body + ' ')]));
";

/// Runs a program with a message on its standard input; `None` when its library is not there.
fn ask(command: &str, args: &[&str], probe: &[&str], told: &Value) -> Option<Value> {
    let found = Command::new(command).args(probe).stderr(Stdio::null()).stdout(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut child = Command::new(command)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(told.to_string().as_bytes()).expect("it reads");
    drop(stdin);
    let done = child.wait_with_output().expect("it ends");
    Some(serde_json::from_slice(&done.stdout).expect("JSON"))
}

/// The library of each language must accept the message under this secret, and not when it is changed.
fn libraries_say(message: &Received, secret: &str, expected: &Value) {
    let told = json!({ "secret": secret, "headers": message.headers, "body": message.body });
    let python = std::env::var("COULOMB_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    match ask(&python, &["-c", PYTHON], &["-c", "import standardwebhooks"], &told) {
        Some(said) => assert_eq!(said, *expected, "Python of {message:?}"),
        None => println!("skipped: no python3 with the standardwebhooks package (COULOMB_TEST_PYTHON)"),
    }
    match ask("node", &["-e", NODE], &["-e", "require('standardwebhooks')"], &told) {
        Some(said) => assert_eq!(said, *expected, "node of {message:?}"),
        None => println!("skipped: no node with the standardwebhooks package (NODE_PATH names its place)"),
    }
}

#[tokio::test]
async fn its_libraries_accept_messages_and_both_secrets_while_one_is_replaced() {
    let world = world().start().await;
    let receiver = Receiver::start();
    let (id, old) = endpoint(&world, receiver.endpoint()).await;
    world.send(on(&id, "test", json!(null))).await.status(204);
    let first = receiver.gets(1).await.remove(0);
    assert_eq!(first.kind(), "endpoint.test");
    assert!(first.header("webhook-id").starts_with("msg_"));
    assert_eq!(first.json()["data"], json!({ "org": null, "endpoint": id }));
    assert_eq!(first.header("content-type"), "application/json");
    libraries_say(&first, &old, &json!([true, false]));

    let rolled = world.send(on(&id, "roll_secret", json!({ "overlap_hours": 1 }))).await.status(200);
    let new = rolled.text("secret");
    assert_ne!(new, old);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    world.send(on(&id, "test", json!(null))).await.status(204);
    let second = receiver.gets(2).await.remove(1);
    assert_eq!(second.header("webhook-signature").split(' ').count(), 2);
    libraries_say(&second, &old, &json!([true, false]));
    libraries_say(&second, &new, &json!([true, false]));
    libraries_say(&first, &new, &json!([false, false]));

    // Without an overlap only the newest signs.
    world.send(on(&id, "roll_secret", json!({ "overlap_hours": 0 }))).await.status(200);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    world.send(on(&id, "test", json!(null))).await.status(204);
    let third = receiver.gets(3).await.remove(2);
    assert_eq!(third.header("webhook-signature").split(' ').count(), 1);
    libraries_say(&third, &new, &json!([false, false]));
}

/// `v1a`: the receiver has the public key only. The libraries do not verify it yet, so `ring` does.
#[tokio::test]
async fn a_public_key_verifies_messages() {
    use base64::Engine;
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    let world = world().start().await;
    let receiver = Receiver::start();
    let (id, public) =
        endpoint(&world, json!({ "url": receiver.url, "signature": "v1a", "with_object": true })).await;
    world.send(on(&id, "test", json!(null))).await.status(204);
    let got = receiver.gets(1).await.remove(0);
    let key = decode(public.strip_prefix("whpk_").expect("a public key"));
    let signature = decode(got.header("webhook-signature").strip_prefix("v1a,").expect("one signature"));
    let text = format!("{}.{}.{}", got.header("webhook-id"), got.header("webhook-timestamp"), got.body);
    assert!(coulomb::signing::is_signed(&text, &key, &signature));
    assert!(!coulomb::signing::is_signed(&format!("{text} "), &key, &signature));
}
