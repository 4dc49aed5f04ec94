//! What `-V` announces: certbot, configuration managers and nginx's own tests read it.
//!
//! In: the directives that are known. Out: the words of nginx's `configure` that would build as much. A module counts
//! as there when its first directive is, so the line tells the truth by itself. Nginx builds some modules only when
//! asked to (`--with-…`) and others unless told otherwise (`--without-…`).

use std::collections::HashSet;

/// What stands there about TLS. Who reads it wants to know which of OpenSSL's words a configuration may use: they are
/// those of 1.1.1, TLS 1.3 and `ssl_conf_command` among them.
pub const TLS: &str = "built with rustls, words compatible with OpenSSL 1.1.1\nTLS SNI support enabled\n";

/// Directives, and the word that announces the module they belong to.
const ASKED_FOR: &[(&str, &str)] = &[
    ("thread_pool", "threads"),
    ("ssl_certificate", "http_ssl_module"),
    ("http2", "http_v2_module"),
    ("http3", "http_v3_module"),
    ("set_real_ip_from", "http_realip_module"),
    ("add_before_body", "http_addition_module"),
    ("xslt_stylesheet", "http_xslt_module"),
    ("image_filter", "http_image_filter_module"),
    ("geoip_country", "http_geoip_module"),
    ("sub_filter", "http_sub_module"),
    ("dav_methods", "http_dav_module"),
    ("flv", "http_flv_module"),
    ("mp4", "http_mp4_module"),
    ("gunzip", "http_gunzip_module"),
    ("gzip_static", "http_gzip_static_module"),
    ("auth_request", "http_auth_request_module"),
    ("random_index", "http_random_index_module"),
    ("secure_link", "http_secure_link_module"),
    ("slice", "http_slice_module"),
    ("stub_status", "http_stub_status_module"),
    ("mail", "mail"),
    ("stream", "stream"),
    ("ssl_preread", "stream_ssl_preread_module"),
];

/// As above, of modules that are there unless the word says otherwise.
const EXPECTED: &[(&str, &str)] = &[
    ("charset", "http_charset_module"),
    ("gzip", "http_gzip_module"),
    ("ssi", "http_ssi_module"),
    ("userid", "http_userid_module"),
    ("allow", "http_access_module"),
    ("auth_basic", "http_auth_basic_module"),
    ("mirror", "http_mirror_module"),
    ("autoindex", "http_autoindex_module"),
    ("geo", "http_geo_module"),
    ("map", "http_map_module"),
    ("split_clients", "http_split_clients_module"),
    ("valid_referers", "http_referer_module"),
    ("rewrite", "http_rewrite_module"),
    ("proxy_pass", "http_proxy_module"),
    ("fastcgi_pass", "http_fastcgi_module"),
    ("uwsgi_pass", "http_uwsgi_module"),
    ("scgi_pass", "http_scgi_module"),
    ("grpc_pass", "http_grpc_module"),
    ("memcached_pass", "http_memcached_module"),
    ("limit_conn", "http_limit_conn_module"),
    ("limit_req", "http_limit_req_module"),
    ("empty_gif", "http_empty_gif_module"),
    ("modern_browser", "http_browser_module"),
    ("hash", "http_upstream_hash_module"),
    ("ip_hash", "http_upstream_ip_hash_module"),
    ("least_conn", "http_upstream_least_conn_module"),
    ("least_time", "http_upstream_least_time_module"),
    ("random", "http_upstream_random_module"),
    ("keepalive", "http_upstream_keepalive_module"),
    ("sticky", "http_upstream_sticky_module"),
    ("zone", "http_upstream_zone_module"),
    ("tunnel_pass", "http_tunnel_module"),
    ("proxy_cache_path", "http-cache"),
];

/// The end of the line `configure arguments:`.
pub fn configure_arguments(directives: &HashSet<String>) -> String {
    let there = |(directive, _): &&(&str, &str)| directives.contains(*directive);
    let with = ASKED_FOR.iter().filter(there).map(|(_, word)| format!(" --with-{word}"));
    let without = EXPECTED.iter().filter(|row| !there(row)).map(|(_, word)| format!(" --without-{word}"));
    with.chain(without).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_announced_as_nginx_would() {
        let nothing = configure_arguments(&HashSet::new());
        assert!(!nothing.contains("--with-") && nothing.contains(" --without-http_gzip_module "));
        let known = ["gzip", "gunzip", "charset_types"].map(str::to_owned).into();
        let some = configure_arguments(&known);
        assert!(some.starts_with(" --with-http_gunzip_module --without-http_charset_module"), "{some}");
        assert!(!some.contains("http_gzip_module"), "{some}");
    }
}
