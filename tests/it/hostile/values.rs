//! Values that a careless or hostile caller sends.

/// Times and days that exist in no calendar, or that no program can store.
pub(super) const TIMES: [&str; 14] = [
    "-200000-01-01T00:00:00Z",
    "+262142-12-31T23:59:59Z",
    "-262143-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "2026-02-30T00:00:00Z",
    "-200000-01-01",
    "+262142-01-01",
    "262142-01",
    "0000-01-01",
    "9999-12-31",
];

/// Texts, before they are encoded for a URL or a body.
pub(super) fn texts() -> Vec<String> {
    let plain = [
        "",
        " ",
        "\0",
        "a\0b",
        "\u{1}\u{7f}",
        "\u{202e}\u{feff}\u{fffd}",
        "😀",
        "'; DROP TABLE orgs; --",
        "../../etc/passwd",
        "null",
        "-1",
        "0",
        "99999999999999999999999999999999",
        "-9223372036854775808",
        "1e400",
        "NaN",
        "%",
        "a,b,,c",
        "[]",
        "W10",
        "{\"a\":1}",
    ];
    plain.iter().chain(&TIMES).map(|text| (*text).to_owned()).chain([long()]).collect()
}

/// A text that does not compress, longer than an index entry may be.
pub(super) fn long() -> String {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + u8::try_from((state >> 33) % 26).expect("a letter"))
    };
    (0..6_000).map(|_| next()).collect()
}

/// Pieces of a URL, already encoded.
pub(super) const ENCODED: [&str; 8] = ["%", "%zz", "%ff", "%c0%80", "%ed%a0%80", "%00", "a%2Fb", "%2e%2e"];

/// Values in a body, as JSON text.
pub(super) fn json() -> Vec<String> {
    let raw = [
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e308",
        "-0.0",
        "2147483648",
        "-9223372036854775808",
        "9223372036854775807",
        "99999999999999999999999999",
        "0.1234567890123456789",
        "1e999",
        "[]",
        "[[]]",
        "[null]",
        "[\"\\u0000\"]",
        "{}",
        "{\"a\":{\"b\":[]}}",
        "{\"\\u0000\":1}",
        "\"\\ud800\"",
        "\"\\u0000\"",
        "\"79228162514264337593543950335\"",
        "\"999999999999999.999999999999\"",
        "\"-999999999999999\"",
        "\"0.0000000001\"",
    ];
    let nested = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let too_deep = format!("{}{}", "{\"a\":".repeat(500), "1".to_owned() + &"}".repeat(500));
    let many = format!("[{}]", vec!["\"a\""; 3_000].join(","));
    raw.iter()
        .map(|value| (*value).to_owned())
        .chain([nested, too_deep, many])
        .chain(texts().iter().map(|text| serde_json::to_string(text).expect("JSON")))
        .collect()
}

/// Bodies that are not a JSON object.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    let raw: [&[u8]; 16] = [
        b"",
        b" ",
        b"\0",
        b"{",
        b"}",
        b"[",
        b"[]",
        b"[1,2,3]",
        b"null",
        b"7",
        b"\"text\"",
        b"{}x",
        b"{\"a\":1,\"a\":2}",
        b"{\"\xff\":1}",
        b"name=acme&x=1",
        b"\xef\xbb\xbf{}",
    ];
    raw.iter().map(|body| body.to_vec()).chain([b"[".repeat(100_000)]).collect()
}

/// Header values, as bytes.
pub(super) const HEADERS: [&[u8]; 8] =
    [b"", b" ", b"\xff\xfe", b"a b", b"*", b"W/\"", b"\"\"", b"99999999999999999999"];
