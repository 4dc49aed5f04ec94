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
mod http_core;
mod http_variables;
mod log;
mod memory;
mod process;
mod proxy;
mod proxy_protocol;
mod readers;
mod resolver;
mod seed;
mod ssi;
mod static_files;
mod stub_status;
mod upgrade;
mod upstream;
mod websocket;
