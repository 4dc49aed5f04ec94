//! The one integration-test binary: the kit, and a module for each feature, named as nginx names it.

mod kit;

mod command_line;
mod conf;
mod differential;
mod fastcgi;
mod floors;
mod http_core;
mod log;
mod process;
mod proxy;
mod seed;
mod static_files;
mod upstream;
mod websocket;
