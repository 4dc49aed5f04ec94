//! The head of a request to an upstream, compiled at load: constants joined, variables between them.
//!
//! nginx: `ngx_http_proxy_create_request`. Lines whose value is empty are left out; a field that is set here is not
//! taken from the client.

use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};

use super::target::Uri;
use super::{HttpVersion, Proxy};
use crate::conf::template::Template;
use crate::http::request::Request;
use crate::http::response::{Field, Refusal};
use crate::log::Level;
use crate::modules::pass::names::FieldNames;
use crate::wire::byte;
use crate::wire::uri::{Escape, escape};

/// Fields that are never the client's, whether or not they are set.
const DEFAULTS: [&str; 9] = [
    "Host",
    "Connection",
    "Proxy-Connection",
    "Content-Length",
    "Transfer-Encoding",
    "TE",
    "Keep-Alive",
    "Expect",
    "Upgrade",
];

/// See the module's head.
#[derive(Debug)]
pub struct RequestHead {
    /// `proxy_set_header Host`.
    host: Option<Template>,
    parts: Vec<Part>,
    /// The client's fields of these names stay here.
    own: FieldNames,
    version: HttpVersion,
}

#[derive(Debug)]
enum Part {
    /// Whole lines.
    Text(Bytes),
    /// `Name: ` and a value that may turn out empty.
    Line(Bytes, Template),
    ContentLength,
    TransferEncoding,
}

/// What one request is made of.
pub struct Parts<'a> {
    pub request: &'a Rc<Request>,
    pub proxy: &'a Proxy,
    pub method: &'a [u8],
    pub host: &'a Bytes,
    pub target: &'a Uri,
    pub length: Option<u64>,
    pub chunked: bool,
    pub body: Option<&'a Bytes>,
}

impl RequestHead {
    pub fn link(set: &[(String, Template)], version: HttpVersion) -> Self {
        let mut head = Self { host: None, parts: Vec::new(), own: DEFAULTS.into_iter().collect(), version };
        let mut text = BytesMut::new();
        let mut said = FieldNames::default();
        for (name, value) in set {
            let name = crate::base::text::bytes(name);
            head.own.insert(&name);
            said.insert(&name);
            if name.eq_ignore_ascii_case(b"Host") {
                head.host = Some(value.clone());
                continue;
            }
            match value.constant() {
                Some(constant) if constant.is_empty() => {}
                Some(constant) => {
                    for part in [&name[..], b": ", constant, b"\r\n"] {
                        text.put_slice(part);
                    }
                }
                None => {
                    head.flush(&mut text);
                    head.parts.push(Part::Line([&name[..], b": "].concat().into(), value.clone()));
                }
            }
        }
        head.flush(&mut text);
        if !said.has(b"Content-Length") {
            head.parts.push(Part::ContentLength);
        }
        if !said.has(b"Transfer-Encoding") {
            head.parts.push(Part::TransferEncoding);
        }
        head
    }

    /// Whether the client's field behind its body goes on: as little as in a head may it replace what is set here.
    pub fn lets_pass(&self, field: &Field) -> bool {
        !self.own.has(&field.name)
    }

    fn flush(&mut self, text: &mut BytesMut) {
        if !text.is_empty() {
            self.parts.push(Part::Text(text.split().freeze()));
        }
    }

    /// The bytes of one request, up to and with its body if one is set; and of them the target.
    pub fn build(&self, parts: &Parts<'_>) -> Result<(Bytes, Bytes), Refusal> {
        let request = parts.request;
        let mut out = BytesMut::with_capacity(1024);
        out.put_slice(parts.method);
        out.put_slice(b" ");
        let start = out.len();
        target(request, parts.target, &mut out);
        let uri = start..out.len();
        if uri.is_empty() {
            request.log(Level::Error, format_args!("zero length URI to proxy"));
            return Err(Refusal::Status(500));
        }
        out.put_slice(match self.version {
            HttpVersion::Zero => b" HTTP/1.0\r\n",
            HttpVersion::One => b" HTTP/1.1\r\n",
        });
        let said = self.host.as_ref().is_some_and(|host| field(&mut out, b"Host: ", host, request));
        // RFC 9112, 3.2: a request in HTTP/1.1 has one
        let left_out = self.host.is_some() && self.version == HttpVersion::Zero;
        if !said && !left_out && !parts.host.is_empty() {
            line(&mut out, b"Host", parts.host);
        }
        for part in &self.parts {
            match part {
                Part::Text(text) => out.put_slice(text),
                Part::Line(name, value) => {
                    field(&mut out, name, value, request);
                }
                Part::ContentLength => {
                    if let Some(length) = parts.length {
                        line(&mut out, b"Content-Length", byte::decimal(length, &mut [0; 20]));
                    }
                }
                Part::TransferEncoding if parts.chunked => line(&mut out, b"Transfer-Encoding", b"chunked"),
                Part::TransferEncoding => {}
            }
        }
        if parts.proxy.settings.pass_request_headers {
            for field in request.head.fields.iter().filter(|field| !self.own.has(field.name)) {
                line(&mut out, field.name, field.value);
            }
        }
        out.put_slice(b"\r\n");
        if let Some(body) = parts.body {
            out.put_slice(body);
        }
        let bytes = out.freeze();
        let uri = bytes.slice(uri);
        Ok((bytes, uri))
    }
}

/// A field whose name comes with its colon; one without a value is left out, and is told by `false`.
fn field(out: &mut BytesMut, name: &[u8], value: &Template, request: &Request) -> bool {
    let begin = out.len();
    out.put_slice(name);
    let empty = out.len();
    value.append(request, out);
    let said = out.len() > empty;
    match said {
        true => out.put_slice(b"\r\n"),
        false => out.truncate(begin),
    }
    said
}

fn line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// The target that the upstream sees.
pub fn target(request: &Request, meant: &Uri, out: &mut BytesMut) {
    let (uri, location) = match meant {
        Uri::Whole(uri) => {
            // Made by variables: it is all there is.
            if !uri.is_empty() {
                return out.put_slice(uri);
            }
            (&b""[..], 0)
        }
        Uri::Replace { uri, location } => (uri.as_ref(), *location),
    };
    if uri.is_empty() && request.target_valid.get() {
        return out.put_slice(request.head.target());
    }
    request.with_path(|path| {
        let mut rest = path.as_ref();
        if request.location_valid.get() && !uri.is_empty() {
            out.put_slice(uri);
            rest = path.get(location.min(path.len())..).unwrap_or_default();
        }
        // nginx: a path that came without escapes is passed as it came
        if request.head.escaped || request.internal.get() {
            out.put_slice(&escape(Escape::Uri, rest));
        } else {
            out.put_slice(rest);
        }
    });
    let args = request.args();
    if !args.is_empty() {
        out.put_slice(b"?");
        out.put_slice(&args);
    }
}
