//! The flags of the API socket.

use crate::args::shortened;
use crate::exit::Failure;
use crate::http::socket::SocketSpec;
use clap::Args;
use std::path::PathBuf;

/// The API socket and its permissions.
#[derive(Debug, Default, Args)]
pub struct SocketFlags {
    /// Serve the HTTP API on this unix socket; `systemd`: use the socket that systemd passes
    #[arg(short = 's', long, value_name = "PATH", help_heading = "API")]
    pub api_socket: Option<PathBuf>,
    /// File mode of the socket, in octal [default: 600, or 660 with a group]
    #[arg(long, value_name = "MODE", value_parser = mode, help_heading = "API", requires = "api_socket")]
    pub api_socket_mode: Option<u32>,
    /// Group of the socket, by name or number
    #[arg(long, value_name = "GROUP", help_heading = "API", requires = "api_socket")]
    pub api_socket_group: Option<String>,
}

impl SocketFlags {
    /// The requested socket, if any.
    pub fn spec(&self) -> Option<SocketSpec> {
        Some(SocketSpec {
            path: self.api_socket.clone()?,
            mode: self.api_socket_mode,
            group: self.api_socket_group.clone(),
        })
    }

    /// The requested socket, which is required.
    pub fn required(&self) -> Result<SocketSpec, Failure> {
        self.spec()
            .ok_or_else(|| Failure::input("--api-socket: missing, must be given; see numavisor --help"))
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits && mode <= 0o777 => Ok(mode),
        _ => Err(format!("`{}` is not a mode, must be octal digits such as 660", shortened(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::mode;

    #[test]
    fn modes_are_octal() {
        assert_eq!((mode("600"), mode("0660")), (Ok(0o600), Ok(0o660)));
        for text in ["", "6", "0o600", "+600", "1777", "888", "rw-"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }
}
