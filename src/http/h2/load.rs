//! What a client has cost beside its requests, and when that is too much.
//!
//! In: frames that ask for nothing, streams that are taken back, bytes. Out: the end of the connection. Nothing here
//! looks at what a frame says.

use super::session::End;
use crate::base::clock;
use crate::wire::http2::Code;

/// What a client has cost us beside its requests.
#[derive(Default)]
pub(super) struct Load {
    /// Bytes, both ways, and how many of them were fields and bodies.
    pub(super) total: u64,
    pub(super) payload: u64,
    /// Streams since the last read.
    pub(super) fresh: u32,
    pub(super) refused: u32,
    /// Streams that the client took back, less those that were answered.
    pub(super) resets: u32,
    /// Window updates, less what was sent.
    pub(super) updates: u32,
    /// Frames that ask for nothing. They are forgotten at a pace that no ordinary client outruns.
    pub(super) idle: u32,
    pub(super) since: u64,
}

/// So many frames may ask for nothing.
const IDLE: u32 = 10_000;
/// So many are forgotten in a second.
const PACE: u64 = 100;

impl Load {
    pub(super) fn count(&mut self, frames: u32) -> Result<(), End> {
        self.idle = self.idle.saturating_add(frames);
        if self.idle > IDLE {
            let now = clock::seconds();
            let forgotten = now.saturating_sub(self.since).saturating_mul(PACE);
            self.since = now;
            self.idle = self.idle.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
            if self.idle > IDLE {
                return Err(End::new(Code::EnhanceYourCalm, "http2 flood detected"));
            }
        }
        Ok(())
    }

    /// A request came.
    pub(super) fn relieve(&mut self) {
        self.idle = self.idle.saturating_sub(10);
    }
}
