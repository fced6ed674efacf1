//! Finds the socket of a new database connection, and duplicates it.
//!
//! Diesel gives access neither to libpq's handle nor to its descriptor. But only with a descriptor of our own
//! can we end a wait in libpq. So the socket is found as the one among all open sockets that is new.

use std::os::fd::OwnedFd;

/// A duplicate of a connection's socket; the socket stays open as long as this value lives.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Shuts it for both sides, as if the server had closed it; whoever waits on it returns.
    pub(super) fn shut(&self) {
        // It fails if the socket is closed already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }

    /// Whether bytes have arrived that nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        rustix::io::ioctl_fionread(&self.0).is_ok_and(|bytes| bytes > 0)
    }
}

/// The names of the sockets that were open at one moment; empty outside of Linux.
#[derive(Debug, Default)]
pub(super) struct OpenSockets(#[cfg(target_os = "linux")] std::collections::HashSet<String>);

#[cfg(target_os = "linux")]
mod linux {
    use std::io::IoSliceMut;
    use std::mem::MaybeUninit;
    use std::os::fd::{OwnedFd, RawFd};
    use std::os::unix::net::UnixStream;

    use rustix::net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, getpeername, recvmsg,
    };

    use sendfd::SendWithFd;

    use super::{OpenSockets, Socket};

    impl OpenSockets {
        /// The sockets that are open now.
        pub(in crate::db) fn now() -> Self {
            Self(sockets().into_iter().map(|(_, name)| name).collect())
        }

        /// Duplicates of the sockets that were opened since then and lead to a database.
        pub(in crate::db) fn new_since(&self) -> Vec<Socket> {
            let new = sockets().into_iter().filter(|(_, name)| !self.0.contains(name));
            new.filter_map(|(number, _)| duplicate(number)).filter(leads_to_a_database).map(Socket).collect()
        }
    }

    /// Descriptor and name of every open socket; the name is unique as long as the socket exists.
    fn sockets() -> Vec<(RawFd, String)> {
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
        let socket = |entry: std::fs::DirEntry| {
            let name = std::fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            name.starts_with("socket:").then_some((number, name))
        };
        entries.filter_map(|entry| socket(entry.ok()?)).collect()
    }

    /// A second descriptor for the same socket. We send the first one to ourselves, because that needs no
    /// `unsafe`.
    fn duplicate(number: RawFd) -> Option<OwnedFd> {
        let (here, there) = UnixStream::pair().ok()?;
        here.send_with_fd(&[0], &[number]).ok()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut enclosed = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(&there, &mut [IoSliceMut::new(&mut byte)], &mut enclosed, flags).ok()?;
        enclosed.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
    }

    /// Recognises a database by the name of its socket file, or by `tcp_user_timeout`, which only our
    /// database connections set.
    fn leads_to_a_database(socket: &OwnedFd) -> bool {
        let Ok(Some(peer)) = getpeername(socket) else { return false };
        if peer.address_family() != AddressFamily::UNIX {
            return rustix::net::sockopt::tcp_user_timeout(socket).is_ok_and(|bound| bound > 0);
        }
        let Ok(peer) = rustix::net::SocketAddrUnix::try_from(peer) else { return false };
        let path = peer.path_bytes().or(peer.abstract_name()).unwrap_or_default();
        String::from_utf8_lossy(path).rsplit('/').next().is_some_and(|name| name.starts_with(".s.PGSQL."))
    }
}

#[cfg(not(target_os = "linux"))]
impl OpenSockets {
    pub(in crate::db) fn now() -> Self {
        Self::default()
    }

    /// Outside of Linux only the system's own timeouts apply.
    pub(in crate::db) fn new_since(&self) -> Vec<Socket> {
        Vec::new()
    }
}
