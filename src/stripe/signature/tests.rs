use super::*;

const NOW: i64 = 1_763_400_000;
const BODY: &[u8] = br#"{"id":"evt_1","object":"event"}"#;
const OLD: &str = "whsec_old";
const NEW: &str = "whsec_new";

fn sign(secret: &str, t: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(t.as_bytes());
    mac.update(b".");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

fn check(header: &str) -> Result<i64, SignatureError> {
    verify(header.as_bytes(), BODY, &[OLD, NEW], NOW, DEFAULT_TOLERANCE_SECONDS)
}

#[test]
fn known_answer() {
    // Computed with `openssl dgst -sha256 -hmac whsec_test` over `1700000000.{"id":"evt_1"}`.
    let header = b"t=1700000000,v1=c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925";
    assert_eq!(verify(header, br#"{"id":"evt_1"}"#, &["whsec_test"], 1_700_000_000, 300), Ok(1_700_000_000));
}

#[test]
fn accepts() {
    let t = NOW.to_string();
    let (old, new, wrong) = (sign(OLD, &t, BODY), sign(NEW, &t, BODY), sign("other", &t, BODY));
    let zero_padded = format!("0{t}");
    let full: String = (1..MAX_SIGNATURES).map(|_| format!("v1={wrong},")).collect();
    for (case, header) in [
        ("first secret", format!("t={t},v1={old}")),
        ("second secret", format!("t={t},v1={new}")),
        ("rolled secret, either order", format!("t={t},v1={wrong},v1={new}")),
        ("unreadable v1 beside a good one", format!("t={t},v1=zz,v1={new},v1=")),
        ("old schemes and unknown ones", format!("v0=6ffb,t={t},v9=,=,x=y=z,v1={new}")),
        ("t last", format!("v1={new},t={t}")),
        ("same t twice", format!("t={t},t={t},v1={new}")),
        ("upper case digits", format!("t={t},v1={}", new.to_uppercase())),
        ("space after the comma", format!("t={t}, v1={new} ")),
        ("as many v1 as allowed, the last good", format!("t={t},{full}v1={new}")),
        ("t signed as sent", format!("t={zero_padded},v1={}", sign(OLD, &zero_padded, BODY))),
    ] {
        assert_eq!(check(&header), Ok(NOW), "{case}: {header}");
    }
}

#[test]
fn refuses() {
    use SignatureError::*;
    let t = NOW.to_string();
    let good = sign(NEW, &t, BODY);
    let at = |t: &str| format!("t={t},v1={}", sign(NEW, t, BODY));
    let many = format!("t={t}{}", format!(",v1={good}").repeat(MAX_SIGNATURES + 1));
    for (header, expected) in [
        (String::new(), Malformed),
        ("garbage".into(), Malformed),
        (format!("t={t},v1={good},"), Malformed),
        (format!("v1={good}"), NoTimestamp),
        (format!("T={t},v1={good}"), NoTimestamp),
        (at(""), BadTimestamp),
        (at("soon"), BadTimestamp),
        (at(&format!("+{t}")), BadTimestamp),
        (at("-1"), BadTimestamp),
        (at("9223372036854775808"), BadTimestamp),
        (at("99999999999999999999999999"), BadTimestamp),
        (format!("t={t},t={},v1={good}", NOW - 1), TwoTimestamps),
        (format!("t={},v1={good},t={t}", NOW - 1), TwoTimestamps),
        (format!("t={t},t=0{t},v1={good}"), TwoTimestamps),
        (format!("t={t}"), NoSignature),
        (format!("t={t},v0={good}"), NoSignature),
        (format!("t={t},v1="), BadSignature),
        (format!("t={t},v1={}", &good[..62]), BadSignature),
        (format!("t={t},v1={good}00"), BadSignature),
        (format!("t={t},v1=0x{}", &good[2..]), BadSignature),
        (many, TooManySignatures),
        (format!("t={},v1={good}", NOW - 1), Mismatch),
        (format!("t={t},v1={}", sign("whsec_other", &t, BODY)), Mismatch),
        (format!("t={t},v1={}", sign(NEW, &t, b"{}")), Mismatch),
        (format!("t={t},v1={}", sign("", &t, BODY)), Mismatch),
    ] {
        assert_eq!(check(&header), Err(expected), "{header}");
    }
}

#[test]
fn refuses_bytes_outside_ascii_wherever_they_stand() {
    let t = NOW.to_string();
    let good = format!("t={t},v1={}", sign(NEW, &t, BODY)).into_bytes();
    for at in 0..=good.len() {
        let mut header = good.clone();
        header.insert(at, 0xff);
        assert_eq!(verify(&header, BODY, &[NEW], NOW, 300), Err(SignatureError::NotAscii));
    }
}

#[test]
fn tolerance_holds_both_ways_and_at_its_edge() {
    use SignatureError::*;
    let run = |t: i64, now, tolerance| {
        let text = t.to_string();
        let header = format!("t={text},v1={}", sign(NEW, &text, BODY));
        verify(header.as_bytes(), BODY, &[NEW], now, tolerance)
    };
    assert_eq!(run(NOW - 300, NOW, 300), Ok(NOW - 300));
    assert_eq!(run(NOW + 300, NOW, 300), Ok(NOW + 300));
    assert_eq!(run(NOW - 301, NOW, 300), Err(TooOld { age: 301, tolerance: 300 }));
    assert_eq!(run(NOW + 301, NOW, 300), Err(InFuture { ahead: 301, tolerance: 300 }));
    assert_eq!(run(NOW, NOW, -5), Ok(NOW));
    assert_eq!(run(NOW, NOW + 1, -5), Err(TooOld { age: 1, tolerance: 0 }));
    assert_eq!(run(i64::MAX, i64::MIN, 300), Err(InFuture { ahead: u64::MAX, tolerance: 300 }));
}

#[test]
fn without_a_secret_nothing_passes() {
    let t = NOW.to_string();
    for blank in ["", " ", "\n"] {
        let header = format!("t={t},v1={}", sign(blank, &t, BODY));
        assert_eq!(verify(header.as_bytes(), BODY, &[blank], NOW, 300), Err(SignatureError::NoSecret));
        assert_eq!(verify(header.as_bytes(), BODY, &[blank, NEW], NOW, 300), Err(SignatureError::Mismatch));
    }
    assert_eq!(verify(b"t=1,v1=00", BODY, &[] as &[&str], NOW, 300), Err(SignatureError::NoSecret));
}

#[test]
fn any_changed_bit_of_the_body_is_noticed() {
    let t = NOW.to_string();
    let header = format!("t={t},v1={}", sign(NEW, &t, BODY));
    for bit in 0..BODY.len() * 8 {
        let mut body = BODY.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verify(header.as_bytes(), &body, &[OLD, NEW], NOW, 300), Err(SignatureError::Mismatch));
    }
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    assert_eq!(format!("{:?}", SigningSecrets::new(&[OLD, NEW])), "SigningSecrets(2 active)");
}
