//! The one integration-test binary: the kit, and a module for each feature, named as nginx names it.

mod kit;

mod command_line;
mod conf;
mod differential;
mod docs;
mod explain;
mod fastcgi;
mod fastcgi_records;
mod floors;
mod gzip;
mod http2;
mod http2_floods;
mod http2_frames;
mod http_core;
mod http_variables;
mod log;
mod memory;
mod process;
mod proxy;
mod proxy_cache;
mod proxy_cache_purge;
mod proxy_cache_rfc9111;
mod proxy_protocol;
mod proxy_ssl;
mod readers;
mod resolver;
mod seed;
mod slice;
mod ssi;
mod ssl;
mod static_files;
mod stub_status;
mod upgrade;
mod upstream;
mod websocket;
