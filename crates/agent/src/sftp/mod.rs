//! An SFTP server on standard input and output, for the SSH gateway: `agent sftp-server`.
//!
//! The gateway starts it like any command, as the user who has logged in, so the kernel decides what may be read and written. It speaks
//! version 3 (draft-ietf-secsh-filexfer-02), which is what clients use, with OpenSSH's extensions. Requests are answered one by one, in
//! their order; it blocks, because it has nothing else to do.
//!
//! - `wire`: reading and writing the protocol's basic types.
//! - `request`: from a packet to a request.
//! - `attributes`: what is said of a file.
//! - `server`: what is done about a request; `extended` for OpenSSH's.
//! - `listing`: the text form of a directory entry.
//! - `status`: errors.

mod attributes;
mod extended;
mod listing;
mod request;
mod server;
mod status;
mod wire;

use std::io::{self, BufReader, Read, Write};

use self::server::Server;

/// The argument by which the agent's program becomes this server.
pub(crate) const NAME: &str = "sftp-server";

/// The longest packet, either way. Clients that ask for limits are told so.
const LONGEST_PACKET: usize = 256 << 10;

/// Serves standard input until its end.
pub(crate) fn run() -> io::Result<()> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    serve(io::stdin().lock(), io::stdout().lock())
}

fn serve(input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut input = BufReader::with_capacity(LONGEST_PACKET, input);
    let mut server = Server::default();
    while let Some(packet) = read_packet(&mut input)? {
        output.write_all(&server.answer(&packet))?;
        output.flush()?;
    }
    Ok(())
}

/// The next packet without its length; `None` at the end of the input.
fn read_packet(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > LONGEST_PACKET {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a packet of {length} bytes"),
        ));
    }
    let mut packet = vec![0; length];
    input.read_exact(&mut packet)?;
    Ok(Some(packet))
}

#[cfg(test)]
mod tests;
