//! Which peer is next: nginx's methods, over the same peers.
//!
//! In: the peers of one rank, and how far a request has come ([`Way`]). Out: the number of the next peer, whose connection is
//! counted already. Every method falls back to round robin where nginx's does.

pub mod consistent; // a ring of points that moves little when servers come and go
pub mod hash; // of a key
pub mod ip_hash; // of the client's network
pub mod least_conn; // fewest connections
pub mod least_time; // shortest answers
pub mod peers; // how they fare
pub mod random; // by chance, and the better of two
pub mod round_robin; // nginx's smooth weighted round robin

use self::consistent::Ring;
use self::least_time::LeastTime;
use self::peers::{Table, Way};
use crate::conf::template::Template;

/// How the peers of a group are chosen.
#[derive(Debug, Default)]
pub enum Method {
    #[default]
    RoundRobin,
    Hash(Template),
    Consistent(Template, Ring),
    IpHash,
    LeastConn,
    Random {
        two: bool,
    },
    LeastTime(LeastTime),
}

impl Method {
    /// The next peer of the primary rank, or of the backups.
    pub fn choose(&self, table: &mut Table<'_>, way: &mut Way, is_backup: bool) -> Option<usize> {
        match self {
            Self::LeastConn => least_conn::choose(table, way),
            Self::LeastTime(least_time) => least_time.choose(table, way),
            Self::Hash(_) if !is_backup => hash::choose(table, way),
            Self::Consistent(_, ring) if !is_backup => ring.choose(table, way),
            Self::IpHash if !is_backup => ip_hash::choose(table, way),
            Self::Random { two } if !is_backup => random::choose(*two, table, way, || fastrand::u64(..)),
            Self::RoundRobin | Self::Hash(_) | Self::Consistent(..) | Self::IpHash | Self::Random { .. } => {
                round_robin::choose(table, way)
            }
        }
    }
}

/// nginx: whoever finds nobody so many times goes round.
const TURNS: u32 = 20;
