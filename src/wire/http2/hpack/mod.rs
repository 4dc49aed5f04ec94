//! HPACK: fields as numbers of a table that both sides keep, and text by a fixed Huffman code. RFC 7541.
//!
//! Reading keeps a table of 4096 bytes, as its peer is told by default. Writing keeps none: names go by the static table,
//! values as text, which any peer can read at once and costs no lookup.

mod decode;
mod encode;
mod huffman;
mod table;

pub use decode::{Bad, Block, Decoder, Fields, Limits, Pair};
pub use encode::{put_field, put_field_named, put_status, put_table_size_zero};
pub use table::Known;
