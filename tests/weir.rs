//! The one integration-test binary: the kit, and a module for each feature, named as nginx names it.

mod kit;

mod command_line;
mod conf;
mod differential;
mod floors;
mod http_core;
mod process;
mod proxy;
mod upstream;
mod websocket;
