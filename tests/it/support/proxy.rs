//! A network between daemon and database that a test breaks: a proxy that reads PostgreSQL's messages.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Database;

/// The server's message after which it waits for the next command.
const READY: u8 = b'Z';

/// A proxy on loopback; it runs until the process ends.
pub struct Proxy {
    /// URL of the database through the proxy.
    pub url: String,
    network: Arc<Network>,
}

#[derive(Default)]
struct Network {
    connections: AtomicU64,
    /// Drops messages on connections up to this number; the connections stay open.
    silent: AtomicU64,
    /// Drops messages on new connections too.
    all_silent: AtomicBool,
    /// The commit of a transaction that contains this text is lost, and the whole network with it.
    vanishes_with: Mutex<Option<String>>,
    /// Of a thousand commits, this many lose their answer and the connection.
    lost: AtomicU32,
    dice: AtomicU64,
    /// Lost commits that the server did, and those that never reached it.
    done: AtomicU64,
    undone: AtomicU64,
}

impl Proxy {
    /// A proxy to the server of `database`.
    pub fn to(database: &Database) -> Self {
        let (credentials, place) =
            database.url.strip_prefix("postgresql://").and_then(|url| url.split_once('@')).expect("a URL");
        let (host, name) = place.split_once('/').expect("a database");
        let dir = host.split(':').next().expect("a host").replace("%2F", "/");
        let socket = format!("{dir}/.s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let network = Arc::<Network>::default();
        let shared = Arc::clone(&network);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&socket) else { continue };
                pass(&shared, client, server);
            }
        });
        Self { url: format!("postgresql://{credentials}@127.0.0.1:{port}/{name}?sslmode=disable"), network }
    }

    /// From now on, drops all messages on present connections. They stay open; new ones work.
    pub fn silence(&self) {
        self.network.silent.store(self.network.connections.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Whether to drop messages on new connections too.
    pub fn silence_all(&self, silent: bool) {
        self.network.all_silent.store(silent, Ordering::SeqCst);
        self.silence();
    }

    /// Loses this many of a thousand commits, about half of them before they reach the server.
    pub fn lose_commits(&self, of_a_thousand: u32) {
        self.network.lost.store(of_a_thousand, Ordering::SeqCst);
    }

    /// Loses the commit of the transaction that writes `text`, and the whole network with it: the daemon
    /// cannot find out the outcome.
    pub fn vanish_with(&self, text: &str) {
        *self.network.vanishing() = Some(text.to_owned());
    }

    /// Lost commits: done, and not done.
    pub fn lost(&self) -> (u64, u64) {
        (self.network.done.load(Ordering::SeqCst), self.network.undone.load(Ordering::SeqCst))
    }
}

impl Network {
    fn vanishing(&self) -> MutexGuard<'_, Option<String>> {
        self.vanishes_with.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message contains the text of [`Proxy::vanish_with`].
    fn marks(&self, message: &[u8]) -> bool {
        self.vanishing().as_ref().is_some_and(|text| holds(message, text))
    }

    /// Whether to lose this commit.
    fn loses(&self, is_marked: bool) -> bool {
        is_marked || self.roll(1000) < u64::from(self.lost.load(Ordering::SeqCst))
    }

    /// Notes a lost commit.
    fn lost(&self, count: &AtomicU64, is_marked: bool) {
        if is_marked {
            *self.vanishing() = None;
            self.all_silent.store(true, Ordering::SeqCst);
        }
        count.fetch_add(1, Ordering::SeqCst);
    }

    fn is_silent(&self, connection: u64) -> bool {
        connection <= self.silent.load(Ordering::SeqCst) || self.all_silent.load(Ordering::SeqCst)
    }

    /// A pseudo-random number below `sides`.
    fn roll(&self, sides: u64) -> u64 {
        let n = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (n ^ (n >> 31)) % sides
    }
}

/// Serves one connection, with a thread for each direction.
fn pass(network: &Arc<Network>, client: TcpStream, server: UnixStream) {
    let connection = network.connections.fetch_add(1, Ordering::SeqCst) + 1;
    let losing = Arc::new(AtomicBool::new(false));
    let ends = || (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
    let (mut client_in, mut server_out) = ends();
    let with_network = Arc::new(AtomicBool::new(false));
    let (their, lose, mark) = (Arc::clone(network), Arc::clone(&losing), Arc::clone(&with_network));
    std::thread::spawn(move || {
        let (mut seen, mut marked) = (Seen::default(), false);
        // The first message has no type.
        let mut first = true;
        while let Ok(message) = message(&mut client_in, first) {
            if their.is_silent(connection) {
                continue;
            }
            marked |= their.marks(&message);
            if !first && seen.commits(&message) {
                let is_marked = std::mem::take(&mut marked);
                if their.loses(is_marked) {
                    if their.roll(2) == 0 {
                        their.lost(&their.undone, is_marked);
                        break;
                    }
                    mark.store(is_marked, Ordering::SeqCst);
                    lose.store(true, Ordering::SeqCst);
                }
            }
            first = false;
            if server_out.write_all(&message).is_err() {
                break;
            }
        }
        let _ = server_out.shutdown(Shutdown::Both);
        let _ = client_in.shutdown(Shutdown::Both);
    });
    let (mut client_out, mut server_in) = ends();
    let network = Arc::clone(network);
    std::thread::spawn(move || {
        while let Ok(message) = message(&mut server_in, false) {
            if network.is_silent(connection) {
                continue;
            }
            if losing.load(Ordering::SeqCst) {
                if message[0] != READY {
                    continue;
                }
                network.lost(&network.done, with_network.load(Ordering::SeqCst));
                break;
            }
            if client_out.write_all(&message).is_err() {
                break;
            }
        }
        // On a silent connection the client does not see that the server closed.
        while network.is_silent(connection) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = client_out.shutdown(Shutdown::Both);
        let _ = server_in.shutdown(Shutdown::Both);
    });
}

/// What the client has sent on a connection.
#[derive(Default)]
struct Seen {
    /// It stores arrivals, where each statement is its own transaction.
    lands: bool,
    executes: bool,
}

impl Seen {
    /// Whether the server commits on this message.
    fn commits(&mut self, message: &[u8]) -> bool {
        let (kind, executed) = (message[0], std::mem::take(&mut self.executes));
        match kind {
            b'P' if holds(message, "INSERT INTO stripe_arrivals") => self.lands = true,
            b'E' => self.executes = true,
            _ => {}
        }
        kind == b'Q' && message[5..] == *b"COMMIT\0" || kind == b'S' && executed && self.lands
    }
}

fn holds(message: &[u8], text: &str) -> bool {
    message.windows(text.len()).any(|part| part == text.as_bytes())
}

/// The next message, unchanged.
fn message(from: &mut impl Read, untyped: bool) -> std::io::Result<Vec<u8>> {
    let head = if untyped { 4 } else { 5 };
    let mut message = vec![0; head];
    from.read_exact(&mut message)?;
    let length = u32::from_be_bytes(message[head - 4..].try_into().expect("four bytes")) as usize;
    message.resize(head - 4 + length.max(4), 0);
    from.read_exact(&mut message[head..])?;
    Ok(message)
}
