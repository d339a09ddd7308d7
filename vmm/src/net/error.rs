//! Why there is no network device, or no socket device. Text for people, one line each.

use crate::socket_file::SocketFileError;
use crate::sys::HostError;
use resources::{Diagnosis, ErrorKind};
use std::path::PathBuf;

/// Why a device's host side cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No interface can be called that.
    #[error("tap: {0:?} is not an interface name, must be 1 to 15 bytes without spaces and slashes")]
    Name(String),
    /// Too few or too many.
    #[error("queues: {0} is out of range, must be 1 to {max}", max = devices::virtio::net::MAX_QUEUE_PAIRS)]
    Queues(u16),
    /// An inherited descriptor is one queue.
    #[error("queues: {queues} need one descriptor each, there {}", are(*.descriptors))]
    Descriptors {
        /// Asked for.
        queues: u16,
        /// Given.
        descriptors: usize,
    },
    /// Descriptors of several interfaces, or not all of a multi-queue one.
    #[error("fd: {descriptor} belongs to interface {other}, must belong to {name} like the first")]
    OtherInterface {
        /// The descriptor.
        descriptor: i32,
        /// Its interface.
        other: String,
        /// The interface of the first.
        name: String,
    },
    /// Below what a device can have.
    #[error("mtu: {0} is too small, must be at least {min}", min = devices::virtio::net::MIN_MTU)]
    Mtu(u16),
    /// A context id that is not a guest's.
    #[error("vsock.cid: {0} is out of range, must be 3 to 4294967294")]
    Cid(u64),
    /// A path that no unix socket can have.
    #[error("vsock.socket: {path}: is too long, must be at most {max} bytes", path = path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// How long it may be, so that ports fit behind it.
        max: usize,
    },
    /// The socket cannot be made.
    #[error("vsock.socket: {0}")]
    Socket(#[from] SocketFileError),
}

fn are(descriptors: usize) -> String {
    if descriptors == 1 { "is 1".to_owned() } else { format!("are {descriptors}") }
}

impl NetError {
    /// Whether it is about a field of an interface, which is then the first word.
    pub(crate) fn is_of_field(&self) -> bool {
        match self {
            Self::Name(_)
            | Self::Queues(_)
            | Self::Descriptors { .. }
            | Self::OtherInterface { .. }
            | Self::Mtu(_) => true,
            Self::Host(_) | Self::Cid(_) | Self::SocketPath { .. } | Self::Socket(_) => false,
        }
    }

    /// What kind of failure it is, its stable code, and the field that is to blame; `net` stands for the interface.
    pub fn diagnosis(&self) -> Diagnosis {
        let device = |field: &str| Diagnosis::new(ErrorKind::Invalid, "device").at(field);
        match self {
            Self::Host(error) => {
                let found = error.diagnosis();
                let given = error.at.subject.as_deref().is_some_and(|it| it.starts_with("descriptor "));
                let found = if given { found.at("net.fd") } else { found };
                match (error.call, error.errno()) {
                    // It is something else, or not opened as it must be.
                    (
                        "TUNSETIFF" | "TUNGETIFF" | "fcntl",
                        libc::EINVAL | libc::EBADF | libc::EBADFD | libc::ENOTTY | libc::E2BIG,
                    ) => Diagnosis { kind: ErrorKind::Invalid, code: "tap_unusable", ..found },
                    _ => found,
                }
            }
            Self::Name(_) => device("net.tap"),
            Self::Queues(_) | Self::Descriptors { .. } => device("net.queues"),
            Self::OtherInterface { .. } => device("net.fd"),
            Self::Mtu(_) => device("net.mtu"),
            Self::Cid(_) => device("vsock.cid"),
            Self::SocketPath { .. } => Diagnosis::new(ErrorKind::Invalid, "file_unusable").at("vsock.socket"),
            Self::Socket(error) => error.diagnosis().at("vsock.socket"),
        }
    }
}
