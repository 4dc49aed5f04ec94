//! What goes out to an upstream, as far as its socket takes it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::Buf;

use crate::http::body::Piece;
use crate::net::io::Io;

/// The most pieces in one writev.
const SLICES: usize = 64;

/// Linux sends at most this much of a file at once.
const SENDFILE: u64 = 0x7fff_f000;

/// Writes what the socket takes of the front pieces, and takes that off.
pub fn poll_write(
    io: &Io,
    output: &mut VecDeque<Piece>,
    cx: &mut Context<'_>,
) -> Poll<Result<u64, (&'static str, io::Error)>> {
    let wrote = match output.front() {
        Some(Piece::File(file)) => {
            let len = usize::try_from(file.len.min(SENDFILE)).unwrap_or(usize::MAX);
            let sent = ready!(io.poll_sendfile(cx, &file.file, file.offset, len));
            match sent {
                Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                other => other,
            }
            .map_err(|error| ("sendfile", error))
        }
        _ => {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for piece in output.iter().take(SLICES) {
                let Piece::Mem(bytes) = piece else { break };
                slices[count] = IoSlice::new(bytes);
                count += 1;
            }
            ready!(io.poll_writev(cx, &slices[..count])).map_err(|error| ("writev", error))
        }
    };
    match wrote {
        Ok(wrote) => {
            advance(output, wrote as u64);
            Poll::Ready(Ok(wrote as u64))
        }
        Err(failed) => Poll::Ready(Err(failed)),
    }
}

/// Takes `wrote` bytes off the front.
fn advance(output: &mut VecDeque<Piece>, mut wrote: u64) {
    while let Some(front) = output.front_mut() {
        let len = front.len();
        if len <= wrote {
            wrote -= len;
            output.pop_front();
            continue;
        }
        match front {
            Piece::Mem(bytes) => bytes.advance(usize::try_from(wrote).unwrap_or(usize::MAX).min(bytes.len())),
            Piece::File(file) => {
                file.offset += wrote;
                file.len -= wrote;
            }
            Piece::Flush => {}
        }
        return;
    }
}
