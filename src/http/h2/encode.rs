//! The head of a response as a block of fields, in nginx's order.
//!
//! nginx: `ngx_http_v2_header_filter`.

use std::cell::RefCell;
use std::sync::LazyLock;

use bytes::{BufMut, BytesMut};

use crate::base::clock;
use crate::http::fields::FieldRef;
use crate::http::h1::{self, Own};
use crate::http::request::Request;
use crate::http::response::{Field, Head};
use crate::http::settings::Tokens;
use crate::wire::byte;
use crate::wire::http2::hpack::{Known, put_field, put_field_named, put_status};

/// Our names, as they are written.
static SERVER: LazyLock<[BytesMut; 2]> = LazyLock::new(|| {
    ["weir", concat!("weir/", env!("CARGO_PKG_VERSION"))].map(|name| {
        let mut field = BytesMut::new();
        put_field_named(Known::Server, name.as_bytes(), &mut field);
        field
    })
});

thread_local! {
    /// The date as it was last written, and how.
    static DATE: RefCell<(clock::Stamp, BytesMut)> = RefCell::new((clock::http_date(), BytesMut::new()));
}

/// Writes the fields of an answer.
pub(super) fn head(request: &Request, head: &Head, out: &mut BytesMut) {
    put_status(head.status, out);
    let own = Own::of(head);
    if !own.server && !head.no_server {
        let [short, full] = &*SERVER;
        out.put_slice(match request.plan().core.server_tokens {
            Tokens::On | Tokens::Build => full,
            Tokens::Off => short,
        });
    }
    if !own.date && !head.no_date {
        date(out);
    }
    if let Some(content_type) = head.content_type.as_ref().filter(|text| h1::shows_type(head) && !text.is_empty()) {
        match &head.charset {
            None => put_field_named(Known::ContentType, content_type, out),
            Some(charset) => {
                let whole = [content_type.as_ref(), b"; charset=", charset].concat();
                put_field_named(Known::ContentType, &whole, out);
            }
        }
    }
    if let (Some(length), false) = (head.content_length, own.content_length)
        && (head.status != 204 || head.foreign)
    {
        put_field_named(Known::ContentLength, byte::decimal(length, &mut [0; 20]), out);
    }
    if let (Some(second), false) = (head.last_modified, own.last_modified)
        && matches!(head.status, 200 | 206 | 304)
    {
        put_field_named(Known::LastModified, clock::http_date_of(second).bytes(), out);
    }
    if let Some(target) = &head.location {
        put_field_named(Known::Location, &h1::location(request, target), out);
    }
    if head.vary_encoding {
        put_field_named(Known::Vary, b"Accept-Encoding", out);
    }
    for field in head.fields.iter() {
        put_field(field.name, field.value, out);
    }
}

fn date(out: &mut BytesMut) {
    let now = clock::http_date();
    DATE.with_borrow_mut(|(known, field)| {
        if field.is_empty() || known.bytes() != now.bytes() {
            *known = now;
            field.clear();
            put_field_named(Known::Date, now.bytes(), field);
        }
        out.put_slice(field);
    });
}

/// Writes a 103.
pub(super) fn early_hints(fields: &[FieldRef<'_>], out: &mut BytesMut) {
    put_status(103, out);
    for field in fields {
        put_field(field.name, field.value, out);
    }
}

/// Writes the fields behind a body.
pub(super) fn trailers(fields: &[Field], out: &mut BytesMut) {
    for field in fields {
        put_field(&field.name, &field.value, out);
    }
}
