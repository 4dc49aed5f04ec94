//! What a program behind us is told about a request: `fastcgi_param` and its kin, and the client's fields as `HTTP_*`.
//!
//! In: the lines of one level. Out: names and values in the order in which nginx sends them. A field that a param speaks
//! for is not told again. nginx: `ngx_http_fastcgi_init_params`, the same for uwsgi and SCGI.

use std::cell::Cell;

use bytes::Bytes;
use smallvec::SmallVec;

use super::vars::same;
use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::template::Template;
use crate::conf::vars::Names;
use crate::conf::words::Words;
use crate::http::fields::Fields;
use crate::http::request::Request;

/// One line: a name, its value, whether an empty value is left out.
#[derive(Clone, Debug)]
pub struct Param {
    name: String,
    value: Template,
    if_not_empty: bool,
}

impl Param {
    /// Syntax: `fastcgi_param parameter value [if_not_empty];`
    pub fn read(words: &Words<'_>) -> Result<Self, Fault> {
        let if_not_empty = match words.arg(2) {
            "if_not_empty" => true,
            _ if words.len() < 3 => false,
            _ => return Err(words.invalid_parameter(2)),
        };
        Ok(Self { name: words.arg(0).to_owned(), value: words.template(1)?, if_not_empty })
    }
}

/// The params of one location, finished.
#[derive(Debug, Default)]
pub struct Params {
    list: Vec<Finished>,
    /// The client's fields that params speak for: `HTTP_X_A` for `X-A`, in small letters.
    own: Vec<String>,
}

#[derive(Debug)]
struct Finished {
    name: Vec<u8>,
    value: Template,
    if_not_empty: bool,
}

/// What the client sent as `Host` may be anything; what we take it for is a host.
const DEFAULTS: [(&str, &str); 1] = [("HTTP_HOST", "$host$is_request_port$request_port")];

/// Takes params in a protocol's own way.
pub trait Writer {
    /// The value is what `value` appends. With `if_not_empty`, nothing is told of one that is empty.
    fn param(&mut self, name: &[u8], if_not_empty: bool, value: impl FnOnce(&mut Vec<u8>));
    /// A field of the client's, which may stand on several lines.
    fn field(&mut self, name: &[u8], values: &[&[u8]]);
}

impl Params {
    /// As [`Params::link`], where the answer may be kept: what makes an answer one client's own is left out, unless the
    /// operator says so.
    pub fn link_for_all(mut said: Vec<Param>, names: &Names) -> Result<Self, Fault> {
        for (name, value) in [
            ("HTTP_IF_MODIFIED_SINCE", "$upstream_cache_last_modified"),
            ("HTTP_IF_UNMODIFIED_SINCE", ""),
            ("HTTP_IF_NONE_MATCH", "$upstream_cache_etag"),
            ("HTTP_IF_MATCH", ""),
            ("HTTP_RANGE", ""),
            ("HTTP_IF_RANGE", ""),
        ] {
            if !said.iter().any(|param| param.name.eq_ignore_ascii_case(name)) {
                let value = Template::new(value, names)?;
                said.push(Param { name: name.to_owned(), value, if_not_empty: true });
            }
        }
        Self::link(said, names)
    }

    pub fn link(mut said: Vec<Param>, names: &Names) -> Result<Self, Fault> {
        for (name, value) in DEFAULTS {
            if !said.iter().any(|param| param.name.eq_ignore_ascii_case(name)) {
                let value = Template::new(value, names)?;
                said.push(Param { name: name.to_owned(), value, if_not_empty: true });
            }
        }
        let mut params = Self::default();
        for Param { name, value, if_not_empty } in said {
            if let Some(field) = name.strip_prefix("HTTP_").filter(|field| !field.is_empty()) {
                params.own.push(field.to_ascii_lowercase());
                // nginx: an empty value here means "not at all"
                if value.constant().is_some_and(|value| value.is_empty()) {
                    continue;
                }
            }
            params.list.push(Finished { name: text::bytes(&name), value, if_not_empty });
        }
        Ok(params)
    }

    /// Tells everything about a request; `fields`: the client's fields too.
    pub fn write(&self, request: &Request, fields: bool, writer: &mut impl Writer) {
        for param in &self.list {
            writer.param(&param.name, param.if_not_empty, |out| param.value.append(request, out));
        }
        if fields {
            self.write_fields(&request.head.fields, writer);
        }
    }

    fn write_fields(&self, fields: &Fields, writer: &mut impl Writer) {
        let mut values: SmallVec<[&[u8]; 4]> = SmallVec::new();
        for (n, field) in fields.iter().enumerate() {
            if self.own.iter().any(|own| same(field.name, own)) {
                continue;
            }
            let Some(lines) = fields.lines_from(n) else { continue };
            values.clear();
            values.extend(lines.map(|line| line.value));
            writer.field(field.name, &values);
        }
    }
}

/// Has a request packed in memory that this thread keeps for it. What waits for its answer is as long as it has to be.
pub fn packed<E>(pack: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, E>) -> Result<Bytes, E> {
    let room = pack(ROOM.take())?;
    let bytes = Bytes::copy_from_slice(&room);
    if room.capacity() <= KEPT_ROOM {
        ROOM.set(room);
    }
    Ok(bytes)
}

thread_local! {
    /// Taken while it is in use.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Memory that one huge request has made larger is not kept.
const KEPT_ROOM: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::Field;

    #[derive(Default)]
    struct Lines(Vec<String>);

    impl Writer for Lines {
        fn param(&mut self, name: &[u8], _: bool, append: impl FnOnce(&mut Vec<u8>)) {
            let mut value = Vec::new();
            append(&mut value);
            self.0.push(format!("{}={}", name.escape_ascii(), value.escape_ascii()));
        }

        fn field(&mut self, name: &[u8], values: &[&[u8]]) {
            self.0.push(format!("{}:{}", name.escape_ascii(), values.join(&b'|').escape_ascii()));
        }
    }

    fn param(name: &str, value: &'static [u8]) -> Param {
        Param { name: name.to_owned(), value: Template::literal(value), if_not_empty: false }
    }

    #[test]
    fn a_param_speaks_for_its_field() {
        let said = vec![param("HTTP_X_A", b""), param("HTTP_x_b", b"1"), param("http_x_c", b""), param("HTTP_", b"")];
        let params = Params::link(said, &Names::default()).expect("they are right");
        let fields = ["X-A", "x-b", "X_A", "X-C", "Host", "x-c"].map(|name| Field::new(name, name));
        let mut lines = Lines::default();
        params.write_fields(&fields.into_iter().collect(), &mut lines);
        assert_eq!(lines.0, ["X-C:X-C|x-c"]);
        let names: Vec<_> = params.list.iter().map(|param| String::from_utf8_lossy(&param.name)).collect();
        assert_eq!(names, ["HTTP_x_b", "http_x_c", "HTTP_", "HTTP_HOST"]);
    }
}
