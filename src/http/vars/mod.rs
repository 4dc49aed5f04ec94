//! The core module's variables: nginx's `ngx_http_core_variables`, TLS ones apart.
//!
//! In: a request. Out: values, which are slices of what is there already wherever that is possible. What a request has as it
//! is to be shown is a [`Row::lent`]; of the others, what nginx recomputes at each use (`NGX_HTTP_VAR_NOCACHEABLE`) is a
//! [`Row::each`], and the rest a [`Row::once`].

mod client; // who asks: addresses, ports, the PROXY protocol
mod sent; // what was answered
mod server; // this process and its clock
mod target; // what is asked: line, fields, arguments, body

use bytes::Bytes;

use super::request::Request;
use crate::conf::error::Fault;
use crate::conf::module::Level;
use crate::conf::vars::{Definitions, Lent, Value};
use crate::http::fields::FieldRef;
use crate::wire::byte;

pub use server::{push_seconds, push_status};

/// Defines them.
pub fn define(level: &Level<'_>, vars: &mut Definitions<Request>) -> Result<(), Fault> {
    target::define(vars)?;
    client::define(vars)?;
    sent::define(vars)?;
    server::define(level, vars)
}

/// A number in decimal digits.
fn decimal(number: u64) -> Value {
    Some(Bytes::copy_from_slice(byte::decimal(number, &mut [0; 20])))
}

/// A port; nginx shows port 0 as nothing.
pub fn port(number: u16) -> Lent<'static> {
    if number == 0 { Lent::Fixed(b"") } else { Lent::number(u64::from(number)) }
}

/// All lines of a field as one value. A single one is not copied.
fn joined<'a>(mut lines: impl Iterator<Item = FieldRef<'a>>, separator: &[u8]) -> Value {
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(first.value_bytes()) };
    let mut all = first.value.to_vec();
    for line in std::iter::once(second).chain(lines) {
        all.extend_from_slice(separator);
        all.extend_from_slice(line.value);
    }
    Some(all.into())
}

/// The fields that the rest of a variable's name means: `-` of a field's name is `_` there, and letters are small.
fn named<'a>(fields: impl Iterator<Item = FieldRef<'a>>, rest: &str) -> impl Iterator<Item = FieldRef<'a>> {
    let means = |name: &[u8]| {
        let plain = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
        name.len() == rest.len() && name.iter().map(plain).eq(rest.bytes())
    };
    fields.filter(move |field| means(field.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::Field;

    #[test]
    fn lines_of_one_field_are_joined_in_order() {
        let field = |name: &'static str, value: &'static str| Field::new(name, value);
        let fields: Vec<Field> =
            vec![field("X-Any", "a"), field("Other", "-"), field("x_any", ""), field("x-aNY", "c")];
        assert_eq!(joined(named(fields.iter().map(FieldRef::from), "x_any"), b", "), Some("a, , c".into()));
        assert_eq!(joined(named(fields.iter().map(FieldRef::from), "other"), b", "), Some("-".into()));
        assert_eq!(joined(named(fields.iter().map(FieldRef::from), "x_an"), b", "), None);
    }

    #[test]
    fn ports() {
        assert_eq!((&*port(0), &*port(8080)), (&b""[..], &b"8080"[..]));
    }
}
