//! The sockets of this process that lead to a database. Neither libpq's handle nor its descriptor can be had
//! through diesel, and only a descriptor of our own can end a wait in libpq: so the socket is found among all
//! that are open, and duplicated.

use std::os::fd::OwnedFd;

/// A connection's socket, open as long as this is.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Ends whatever waits on it, on both sides: as if the server had closed it.
    pub(super) fn shut(&self) {
        // It may have ended by itself.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }

    /// Whether there is something to read on it.
    pub(super) fn has_unread(&self) -> bool {
        rustix::io::ioctl_fionread(&self.0).is_ok_and(|bytes| bytes > 0)
    }
}

/// The sockets that are open at a moment.
#[derive(Debug, Default)]
pub(super) struct Open(#[cfg(target_os = "linux")] std::collections::HashSet<String>);

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

    use super::{Open, Socket};

    impl Open {
        /// Those that are open now.
        pub(in crate::db) fn now() -> Self {
            Self(sockets().into_iter().map(|(_, name)| name).collect())
        }

        /// Those opened since that lead to a database.
        pub(in crate::db) fn since(&self) -> Vec<Socket> {
            let new = sockets().into_iter().filter(|(_, name)| !self.0.contains(name));
            new.filter_map(|(number, _)| duplicate(number)).filter(leads_to_a_database).map(Socket).collect()
        }
    }

    /// Descriptor and name of every open socket; the name is its own as long as it lives.
    fn sockets() -> Vec<(RawFd, String)> {
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
        let socket = |entry: std::fs::DirEntry| {
            let name = std::fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            name.starts_with("socket:").then_some((number, name))
        };
        entries.filter_map(|entry| socket(entry.ok()?)).collect()
    }

    /// A descriptor of our own for the same socket: it travels to ourselves, which is the way that needs no
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

    /// By the name of a server's socket file, or by the bound on silence that our connections alone have.
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
impl Open {
    pub(in crate::db) fn now() -> Self {
        Self::default()
    }

    /// Elsewhere the system's own bounds must do.
    pub(in crate::db) fn since(&self) -> Vec<Socket> {
        Vec::new()
    }
}
