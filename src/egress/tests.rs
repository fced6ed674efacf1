use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::addresses::is_public;
use super::*;

/// Addresses of the inside, by their kind.
const INSIDE: &[&str] = &[
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200", // Alibaba's metadata
    "100.127.255.255",
    "127.0.0.1",
    "127.1.2.3",
    "169.254.169.254", // metadata of AWS, Google, Azure, …
    "169.254.170.2",   // credentials of AWS's containers
    "168.63.129.16",   // Azure's platform
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192", // Oracle's metadata
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",      // v4-compatible
    "::ffff:127.0.0.1", // v4-mapped
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1", // SIIT
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",    // NAT64
    "64:ff9b::a9fe:a9fe", // NAT64 of metadata
    "64:ff9b:1::1",       // local NAT64
    "100::1",             // discard
    "2001::1",            // Teredo
    "2001:2::1",          // benchmarks
    "2001:10::1",         // ORCHID
    "2001:20::1",         // ORCHIDv2
    "2001:db8::1",        // documentation
    "2002:7f00:1::1",     // 6to4 of loopback
    "3fff::1",            // documentation
    "5f00::1",            // segment routing
    "fc00::1",            // unique local
    "fd00:ec2::254",      // metadata of AWS
    "fe80::1",            // link-local
    "fec0::1",            // site-local
    "ff02::1",            // multicast
];

#[test]
fn only_addresses_of_the_internet_are_public() {
    for text in INSIDE {
        assert!(!is_public(text.parse().expect("an address")), "{text}");
    }
    for text in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:200::1",
        "2a00:1450::1",
        "2003::1",
    ] {
        assert!(is_public(text.parse().expect("an address")), "{text}");
    }
}

/// A server on loopback that counts connections and answers 200.
struct Victim {
    port: u16,
    reached: Arc<AtomicUsize>,
}

impl Victim {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (port, reached) = (listener.local_addr().expect("an address").port(), Arc::default());
        let count: Arc<AtomicUsize> = Arc::clone(&reached);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
            }
        });
        Self { port, reached }
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }
}

/// Gives every name one address after the other; the last one again and again.
struct Rebinding(Vec<IpAddr>, AtomicUsize);

impl Resolve for Rebinding {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
        let asked = self.1.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { Ok(vec![self.0[asked.min(self.0.len() - 1)]]) })
    }
}

fn rules(allowed: &str) -> TargetRules {
    TargetRules { allow_http: true, allowed: AllowList::parse(allowed).expect("a list") }
}

fn client(allowed: &str, addresses: Vec<IpAddr>) -> Client {
    let options = ClientOptions { rules: rules(allowed), timeout: Duration::from_millis(1500) };
    Client::with_resolver(options, Arc::new(Rebinding(addresses, AtomicUsize::new(0))))
}

async fn post(client: &Client, url: &str) -> Result<Reply, SendError> {
    client.post(url, &[], Bytes::from_static(b"{}")).await
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A public address at which nothing answers in a test: it only has to pass the check.
const PUBLIC: &str = "8.8.8.8";

/// Every URL names the victim, or the machine, or another inside, in a form of its own.
#[tokio::test]
async fn no_form_of_an_inside_address_is_reached() {
    let victim = Victim::start();
    let port = victim.port;
    let forms = [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "0x7f.1",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "①②⑦.0.0.1",
        "127。0。0。1",
    ];
    let names = ["ip6-localhost", "any.name.example"];
    let ourselves = ["localhost", "LOCALHOST", "localhost.", "api.localhost", "ⓛocalhost"];
    let client = client("", vec![LOOPBACK]);
    for host in forms.iter().chain(&ourselves).chain(&names).map(|&host| host.to_owned()).chain(
        INSIDE.iter().map(|text| if text.contains(':') { format!("[{text}]") } else { (*text).to_owned() }),
    ) {
        let url = format!("http://{host}:{port}/");
        let checked = rules("").check_url(&url);
        let is_name = names.contains(&&*host);
        assert_eq!(checked.is_ok(), is_name, "{url}: {checked:?}");
        // Also as if nobody had checked it before.
        let parsed = url::Url::parse(&url).map(String::from).unwrap_or(url.clone());
        let error = post(&client, &parsed).await.expect_err(&url).to_string();
        assert!(error.contains("an address of the inside"), "{url}: {error}");
    }
    assert_eq!(victim.reached(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_each_time() {
    let victim = Victim::start();
    let url = format!("http://rebind.example:{}/", victim.port);
    let client = client("", vec![PUBLIC.parse().expect("an address"), LOOPBACK]);
    // The first answer passes, and the connection goes to it alone: nobody answers there.
    let first = post(&client, &url).await.expect_err("nobody answers").to_string();
    assert!(!first.contains("inside"), "{first}");
    let second = post(&client, &url).await.expect_err("refused").to_string();
    assert!(second.contains("rebind.example is 127.0.0.1, an address of the inside"), "{second}");
    assert_eq!(victim.reached(), 0);
}

#[tokio::test]
async fn the_operator_allows_networks_addresses_and_hosts() {
    let victim = Victim::start();
    for (allowed, host, reaches) in [
        ("127.0.0.0/8", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "any.example", true),
        ("hooks.inside", "hooks.inside", true),
        ("hooks.inside", "HOOKS.inside.", true),
        ("hooks.inside", "other.inside", false),
        ("hooks.inside", "127.0.0.1", false),
        ("127.0.0.2,10.0.0.0/8, ::1", "127.0.0.1", false),
        ("0.0.0.0/0", "127.0.0.1", true),
    ] {
        let url = format!("http://{host}:{}/", victim.port);
        let result = post(&client(allowed, vec![LOOPBACK]), &url).await;
        assert_eq!(result.is_ok(), reaches, "{allowed} {host}: {result:?}");
    }
    for wrong in ["10.0.0.0/33", "1.2.3", "a b", "http://x", "10.0.0.0/", "::/129", "*"] {
        assert!(AllowList::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn urls_that_are_no_targets_are_refused() {
    let strict = TargetRules::default();
    let long = format!("https://example.com/{}", "a".repeat(2000));
    for url in [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "https://",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com/#part",
        "https://example.com:0/",
        "example.com",
        "",
        "javascript:alert(1)",
        "https://./",
        &long,
        "https://127.0.0.1/",
        "https://[::1]/",
        "https:///x",
        "https:example.com",
        "https:/example.com",
        "https://?x",
        "https://example.com\\@127.0.0.1/",
        "https:\\\\example.com/",
        "https://example.com/\r\nX: y",
        "https://exam\tple.com/",
        "https://example.com/a b",
        " https://example.com/",
        "https://example.com/\u{7f}",
        "https://a{b}.example/",
    ] {
        assert!(strict.check_url(url).is_err(), "{url}");
    }
    for url in ["https://example.com", "https://example.com:8443/hook?a=b", "https://8.8.8.8/"] {
        assert!(strict.check_url(url).is_ok(), "{url}");
    }
    assert!(rules("").check_url("http://example.com/").is_ok());
    for (allowed, is_allowed) in
        [("localhost", true), ("127.0.0.0/8", true), ("::1", true), ("10.0.0.0/8", false), ("other", false)]
    {
        assert_eq!(rules(allowed).check_url("http://localhost:8080/").is_ok(), is_allowed, "{allowed}");
    }
    // Punycode by hand: `python3 -c "print('bücher.example'.encode('idna'))"`.
    for (url, normal) in [
        ("https://bücher.example/hook", "https://xn--bcher-kva.example/hook"),
        ("HTTPS://EXAMPLE.com:443", "https://example.com/"),
        ("https://example.com/ü?q=ü|{}", "https://example.com/%C3%BC?q=%C3%BC|{}"),
        ("https://ⓔxample.com/", "https://example.com/"),
    ] {
        assert_eq!(strict.check_url(url).map(String::from), Ok(normal.to_owned()));
    }
}

/// One that was stored by an older version, as it was given.
#[tokio::test]
async fn a_url_is_sent_to_in_its_normal_form() {
    let victim = Victim::start();
    let url = format!("http://bücher.example:{}/ü", victim.port);
    assert_eq!(post(&client("127.0.0.1", vec![LOOPBACK]), &url).await.expect("an answer").status, 200);
    let error = post(&client("", vec![LOOPBACK]), "http://a{b}.example/").await.expect_err("no host");
    assert!(error.to_string().starts_with("the URL must have a host"), "{error}");
}

/// Answers every connection with `answer`, as it is.
fn answering(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
        }
    });
    address
}

#[tokio::test]
async fn answers_are_bounded_and_redirects_are_not_followed() {
    let victim = Victim::start();
    let client = client("127.0.0.0/8", vec![LOOPBACK]);
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{}/\r\ncontent-length: 0\r\n\r\n",
        victim.port
    );
    let url = format!("http://{}/", answering(redirect.into_bytes()));
    assert_eq!(post(&client, &url).await.expect("an answer").status, 302);
    assert_eq!(victim.reached(), 0);

    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.extend(vec![b'x'; 4 << 20]);
    let reply = post(&client, &format!("http://{}/", answering(endless))).await.expect("an answer");
    assert_eq!((reply.status, reply.excerpt.len()), (200, 1024));

    let mut header = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
    header.extend(vec![b'x'; 1 << 20]);
    assert!(post(&client, &format!("http://{}/", answering(header))).await.is_err());

    let nul = b"HTTP/1.1 500 No\r\nretry-after: 120\r\ncontent-length: 3\r\n\r\na\0b".to_vec();
    let reply = post(&client, &format!("http://{}/", answering(nul))).await.expect("an answer");
    assert_eq!((reply.status, &*reply.excerpt, reply.retry_after.as_deref()), (500, "a b", Some("120")));
}

/// Whoever reads late must not get a request that was given up: it may have been repeated since.
#[tokio::test]
async fn the_rest_of_a_request_that_was_given_up_is_not_sent() {
    const LEN: usize = 400 * 1024;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("set");
    socket.bind(&SocketAddr::new(LOOPBACK, 0).into()).expect("a port");
    socket.listen(8).expect("listens");
    let listener = TcpListener::from(socket);
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let client = client("127.0.0.0/8", vec![LOOPBACK]);
    let error = client.post(&url, &[], Bytes::from(vec![b'x'; LEN])).await.expect_err("no answer");
    assert!(error.to_string().starts_with("no whole answer within"), "{error}");
    let read = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        std::thread::sleep(Duration::from_millis(200));
        let mut got = Vec::new();
        let end = stream.read_to_end(&mut got);
        (got.len(), end)
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (got, end) = read.join().expect("no panic");
    assert!(end.is_err() && got < LEN, "{got} bytes, then {end:?}");
}
