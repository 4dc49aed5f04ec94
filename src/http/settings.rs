//! The core module's plain values for one location, finished: what requests look at.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::root::Root;
use crate::base::hash::QuickMap;
use crate::base::temp::TempPath;
use crate::base::threads::Pool;
use crate::conf::template::Template;
use crate::conf::words::Buffers;
use crate::log::error::ErrorLog;
use crate::net::resolver::Resolver;

/// The core module's values for one location.
#[derive(Default)]
pub struct Settings {
    pub internal: bool,
    /// The `limit_except` block inside, by its number.
    pub limit_except: Option<usize>,
    /// In such a block: the methods that it does not concern.
    pub except: Vec<Bytes>,
    pub root: Root,
    pub types: Types,
    pub default_type: Bytes,
    pub error_pages: Vec<ErrorPage>,
    /// `None`: the main scope's.
    pub error_log: Option<ErrorLog>,
    pub satisfy: Satisfy,
    pub server_tokens: Tokens,
    pub if_modified_since: IfModifiedSince,
    pub max_ranges: Option<u64>,
    pub keepalive_timeout: KeepaliveTimeout,
    pub keepalive_disable: KeepaliveDisable,
    pub lingering_close: Lingering,
    pub limit_rate: Option<Template>,
    pub limit_rate_after: Option<Template>,
    pub client_body_in_file_only: InFile,
    pub client_body_temp_path: TempPath,
    /// Whether sendfile, too, waits for the disk on a thread.
    pub aio: bool,
    /// Where what is not in memory is read.
    pub pool: Arc<Pool>,
    pub directio: Option<u64>,
    pub directio_alignment: usize,
    pub output_buffers: Buffers,
    pub resolver: Option<Arc<Resolver>>,
    pub absolute_redirect: bool,
    pub aio_write: bool,
    pub auth_delay: Duration,
    pub chunked_transfer_encoding: bool,
    pub client_body_buffer_size: usize,
    pub client_body_in_single_buffer: bool,
    pub client_body_timeout: Duration,
    pub client_max_body_size: u64,
    /// Conditions of which one must hold for early hints to pass.
    pub early_hints: Vec<Template>,
    pub etag: bool,
    pub keepalive_min_timeout: Duration,
    pub keepalive_requests: u64,
    pub keepalive_time: Duration,
    pub lingering_time: Duration,
    pub lingering_timeout: Duration,
    pub log_not_found: bool,
    pub log_subrequest: bool,
    pub msie_padding: bool,
    pub msie_refresh: bool,
    /// A path, or the name of a location.
    pub post_action: Option<Bytes>,
    pub port_in_redirect: bool,
    pub recursive_error_pages: bool,
    pub reset_timedout_connection: bool,
    pub resolver_timeout: Duration,
    pub send_timeout: Duration,
    pub sendfile: bool,
    pub sendfile_max_chunk: usize,
    pub server_name_in_redirect: bool,
    pub subrequest_output_buffer_size: usize,
    pub tcp_nodelay: bool,
    pub tcp_nopush: bool,
}

/// File name extensions, in lower case, and their media types.
pub type Types = Arc<QuickMap<Bytes, Bytes>>;

/// One status of an `error_page` directive.
#[derive(Clone, Debug)]
pub struct ErrorPage {
    pub status: u16,
    pub overwrite: Overwrite,
    pub target: Template,
}

/// The status that the client gets with an error page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// The original one.
    Keep,
    /// `=`: whatever the page's own answer has.
    Page,
    /// `=200`.
    With(u16),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Satisfy {
    #[default]
    All,
    Any,
}

/// `server_tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tokens {
    #[default]
    On,
    Off,
    Build,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfModifiedSince {
    Off,
    #[default]
    Exact,
    Before,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepaliveTimeout {
    pub server: Duration,
    /// What the `Keep-Alive` field tells the client, in seconds.
    pub header: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepaliveDisable {
    pub msie6: bool,
    pub safari: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lingering {
    Off,
    #[default]
    On,
    Always,
}

/// `client_body_in_file_only`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InFile {
    #[default]
    Off,
    /// In a file that stays.
    On,
    /// In a file that goes with the request.
    Clean,
}
