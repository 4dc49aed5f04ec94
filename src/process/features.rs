//! What `-V` announces: certbot, configuration managers and nginx's own tests read it.
//!
//! The words are those of nginx's `configure`. A module that nginx builds by default and that is not here yet is named
//! by its `--without-…`, one that nginx leaves out by default and that is here by its `--with-…`. Whoever adds a
//! module changes its line.

/// Modules that nginx builds only when asked to, and that are here.
const WITH: &[&str] = &["threads"];

/// Modules that nginx builds unless told otherwise, and that are not here.
const WITHOUT: &[&str] = &[
    "http_charset_module",
    "http_userid_module",
    "http_access_module",
    "http_auth_basic_module",
    "http_mirror_module",
    "http_autoindex_module",
    "http_geo_module",
    "http_split_clients_module",
    "http_referer_module",
    "http_uwsgi_module",
    "http_scgi_module",
    "http_grpc_module",
    "http_memcached_module",
    "http_limit_conn_module",
    "http_limit_req_module",
    "http_browser_module",
    "http_upstream_hash_module",
    "http_upstream_ip_hash_module",
    "http_upstream_least_conn_module",
    "http_upstream_least_time_module",
    "http_upstream_random_module",
    "http_upstream_sticky_module",
    "http_upstream_zone_module",
    "http_tunnel_module",
    "http-cache",
];

/// The end of the line `configure arguments:`.
pub fn configure_arguments() -> String {
    let with = WITH.iter().map(|word| format!(" --with-{word}"));
    with.chain(WITHOUT.iter().map(|word| format!(" --without-{word}"))).collect()
}
