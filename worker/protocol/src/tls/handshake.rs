//! Why a handshake with a stranger came to nothing.

use std::io;

use rustls::Error;

/// Why there is no connection with a client that proves nothing. Each is a label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// What came was no TLS.
    NoTls,
    /// The client dawdled.
    TooSlow,
    /// The client left in the middle.
    Left,
    /// The client said no, mostly to the certificate.
    Refused,
    /// No version, cipher or protocol is known to both.
    NothingInCommon,
    /// What came was against the rules.
    Broken,
}

impl Handshake {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::NoTls,
        Self::TooSlow,
        Self::Left,
        Self::Refused,
        Self::NothingInCommon,
        Self::Broken,
    ];

    /// The reason in words, the same each time.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoTls => "spoke no TLS",
            Self::TooSlow => "took too long",
            Self::Left => "left in the middle",
            Self::Refused => "refused by the client",
            Self::NothingInCommon => "nothing in common",
            Self::Broken => "broke the protocol",
        }
    }

    pub(super) fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::AlertReceived(_)) => Self::Refused,
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => {
                Self::NothingInCommon
            }
            Some(_) => Self::Broken,
            None if error.kind() == io::ErrorKind::TimedOut => Self::TooSlow,
            None => Self::Left,
        }
    }
}
