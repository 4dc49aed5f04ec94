//! Who answers when somebody else does: upstreams, in every protocol.
//!
//! ```text
//! proxy, fastcgi, … ─► target and request ─► exchange ─► reply ─► relay or tunnel
//! ```
//!
//! A protocol is a [`settings::Family`] (its directives), a handler, and a [`codec::Codec`].

pub mod address; // targets without a path
pub mod cache; // answers that are kept
pub mod cgi; // programs that answer as CGI programs do
pub mod codec; // a protocol: what it makes of bytes
pub mod exchange; // one request's exchange with its upstream
pub mod fastcgi; // programs
pub mod group; // upstream {} blocks
pub mod memcached; // values that are kept elsewhere
pub mod names; // sets of field names
mod output; // what goes out, as far as a socket takes it
pub mod params; // what programs are told
pub mod proxy; // HTTP
pub mod relay; // a body on its way
pub mod reply; // an upstream's head, understood
pub mod resolve; // names that variables make
pub mod scgi; // programs, by SCGI
pub mod settings; // the directives that all share
pub mod sticky; // clients that come back to a peer
pub mod store; // answers kept as files
pub mod tls; // TLS towards upstreams
pub mod tunnel; // upgraded connections
pub mod uwsgi; // programs, by uwsgi
pub mod vars; // $upstream_*
