//! Request targets: their shape, their normal form, and paths that are safe to open.
//!
//! In: a target as a client sent it. Out: the path that locations are matched with and files are opened by, its
//! extension, and the arguments; nginx's verdicts (`ngx_http_parse_uri`, `ngx_http_parse_complex_uri`). Two rules
//! hold. A path that needs no change is not copied. And whoever opens a file takes a [`CleanPath`], which has no `..`
//! segment and no NUL, whatever it was made from.

use std::ops::Deref;

use bytes::Bytes;

use crate::wire::byte::{self, USUAL};
use crate::wire::span::{Span, visible};

mod escape;
mod untrusted;

pub use escape::{Escape, escape, escape_html, push_escaped, unescape, unescape_redirect};
pub use untrusted::{UnsafeUri, Untrusted, untrusted};

/// What the bytes of a target showed on the way: enough to know whether the path is already normal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// `/.`, `//` or a fragment: the path must be normalised.
    pub complex: bool,
    /// `%`: the path must be decoded.
    pub quoted: bool,
    /// `+` in the path.
    pub plus: bool,
    /// An absolute target without a path: `http://host?args`.
    pub empty_path: bool,
    /// Where the arguments begin, behind the `?`.
    pub args: Option<u32>,
    /// Where the extension of the last segment begins, behind its last `.`.
    pub extension: Option<u32>,
}

/// The target has no normal form: it climbs above `/`, or its escapes are broken or hide a NUL. 400, and the log says
/// `client sent invalid request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTarget;

impl Shape {
    /// The shape of a target that was not in a request line: HTTP/2's `:path`. It must begin with `/` and hold neither
    /// controls nor spaces.
    pub fn of(buf: &[u8], target: Span) -> Result<Self, BadTarget> {
        let mut shape = Self::default();
        let bytes = visible(target.of(buf));
        if bytes.first() != Some(&b'/') || bytes.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
            return Err(BadTarget);
        }
        let start = target.start as usize;
        let mut at = 1;
        let mut after_slash = true;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'.' | b'/' if after_slash => shape.complex = true,
                b'/' => {
                    shape.extension = None;
                    after_slash = true;
                    continue;
                }
                b'.' => {
                    shape.extension = Some((start + at) as u32);
                    continue;
                }
                // nginx: a plus leaves the parser behind the slash
                b'+' => {
                    shape.plus = true;
                    continue;
                }
                b'%' => shape.quoted = true,
                b'?' => shape.args = Some((start + at) as u32),
                b'#' => shape.complex = true,
                _ => {
                    after_slash = false;
                    at = byte::skip(bytes, at, USUAL);
                    continue;
                }
            }
            break;
        }
        shape.complex |= memchr::memchr(b'#', bytes.get(at..).unwrap_or_default()).is_some();
        Ok(shape)
    }
}

/// A target in its normal form, still of the buffer that it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal {
    path: Path,
    /// The arguments, without `?` and fragment.
    pub args: Span,
    /// Where the extension begins in the path.
    extension: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Path {
    AsSent(Span),
    Made(Vec<u8>),
}

/// The normal form of `target`, whose `shape` its parser told.
pub fn normalise(buf: &[u8], target: Span, shape: &Shape, merge_slashes: bool) -> Result<Normal, BadTarget> {
    if shape.complex || shape.quoted || shape.empty_path {
        return Normaliser::new(target.of(buf), merge_slashes, shape.empty_path).run(target.start);
    }
    let (path, args) = match shape.args {
        Some(args) => {
            (Span { start: target.start, end: args.saturating_sub(1) }, Span { start: args, end: target.end })
        }
        None => (target, Span { start: target.end, end: target.end }),
    };
    let extension = shape.extension.map(|extension| extension.saturating_sub(target.start));
    Ok(Normal { path: Path::AsSent(path), args, extension })
}

impl Normal {
    /// `$uri`, as long as nothing has rewritten it.
    pub fn path<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        match &self.path {
            Path::AsSent(span) => span.of(buf),
            Path::Made(path) => path,
        }
    }

    /// The path and arguments as shared slices of the frozen buffer, which must be the one that was normalised: in
    /// another one there is hardly a clean path, and then this fails.
    pub fn freeze(self, buf: &Bytes) -> Result<Uri, BadTarget> {
        let path = match self.path {
            Path::AsSent(span) => span.slice(buf),
            Path::Made(path) => Bytes::from(path),
        };
        let path = CleanPath::new(path).ok_or(BadTarget)?;
        Ok(Uri { path, args: self.args.slice(buf), extension: self.extension })
    }
}

/// A target, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    pub path: CleanPath,
    /// Empty when there is no `?`, and also when nothing follows it.
    pub args: Bytes,
    extension: Option<u32>,
}

impl Uri {
    /// The extension of the last segment, which chooses the type; empty when there is none.
    pub fn extension(&self) -> &[u8] {
        match self.extension {
            Some(start) => self.path.get(start as usize..).unwrap_or_default(),
            None => &[],
        }
    }

    /// The target of an internal redirect, of a rewrite, of a subrequest: a path that is normal already.
    pub fn internal(path: CleanPath, args: Bytes) -> Self {
        let extension = extension(&path).map(|start| start as u32);
        Self { path, args, extension }
    }
}

/// A path that names nothing outside of the directory it is appended to: no segment is `..`, no byte is NUL. (A segment
/// `.`, and several slashes, may be left: `merge_slashes off`, rewrites.)
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CleanPath(Bytes);

impl CleanPath {
    /// `None` when the path is not clean.
    pub fn new(path: Bytes) -> Option<Self> {
        is_clean(&path).then_some(Self(path))
    }

    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for CleanPath {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// True when no segment of `path` is `..` and there is no NUL in it.
fn is_clean(path: &[u8]) -> bool {
    let mut rest = path;
    let mut begins = true; // a segment, with what is left
    loop {
        let (before, at) = rest.split_at(byte::find_either(rest, b'.', 0));
        begins = before.last().map_or(begins, |&byte| byte == b'/');
        match at {
            [] => return true,
            [0, ..] => return false,
            [b'.', b'.'] | [b'.', b'.', b'/', ..] if begins => return false,
            [_, after @ ..] => rest = after,
        }
        begins = false;
    }
}

/// A target of the configuration: the path, and behind the first `?` the arguments.
pub fn split_args(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', target) {
        Some(mark) => (&target[..mark], Some(&target[mark + 1..])),
        None => (target, None),
    }
}

/// Where the extension of a path begins that did not come from a client (nginx: `ngx_http_set_exten`): behind the last
/// `.` of the last segment, unless that begins with it.
pub fn extension(path: &[u8]) -> Option<usize> {
    // Extensions are short: looking at byte after byte from the end is over before a vector is loaded.
    let dot = path.iter().rposition(|byte| matches!(byte, b'.' | b'/')).filter(|&at| path[at] == b'.')?;
    match dot.checked_sub(1).map(|before| path[before]) {
        None | Some(b'/') => None,
        Some(_) => Some(dot + 1),
    }
}

/// Decodes and resolves a path into a new buffer, one byte at a time.
struct Normaliser<'a> {
    input: &'a [u8],
    pos: usize,
    merge_slashes: bool,
    path: Vec<u8>,
    extension: Option<u32>,
    part: Part,
}

/// What the path made so far ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Usual,
    Slash,
    Dot,
    DotDot,
}

/// A byte of the path.
#[derive(Clone, Copy)]
enum Decoded {
    /// It means what it is, even if it was escaped: `/` and `.`.
    Byte(u8),
    /// It was escaped, and is only itself: `%`, `#`, `?`.
    Literal(u8),
}

impl<'a> Normaliser<'a> {
    fn new(input: &'a [u8], merge_slashes: bool, empty_path: bool) -> Self {
        let mut path = Vec::with_capacity(input.len() + 1);
        if empty_path {
            path.push(b'/');
        }
        Self { input, pos: 0, merge_slashes, path, extension: None, part: Part::Usual }
    }

    /// `start` is where the input begins in the buffer of the spans.
    fn run(mut self, start: u32) -> Result<Normal, BadTarget> {
        let mut args = None;
        while let Some(byte) = self.decoded()? {
            match byte {
                Decoded::Byte(b'?') => {
                    args = Some(self.pos);
                    break;
                }
                Decoded::Byte(b'#') => break,
                Decoded::Byte(byte) => self.byte(byte)?,
                Decoded::Literal(byte) => {
                    self.part = Part::Usual;
                    self.path.push(byte);
                }
            }
        }
        match self.part {
            Part::Usual | Part::Slash => {}
            Part::Dot => {
                self.path.pop();
            }
            Part::DotDot => self.climb()?,
        }

        let end = self.input.len();
        let args = match args {
            Some(from) => {
                let rest = self.input.get(from..).unwrap_or_default();
                from..memchr::memchr(b'#', rest).map_or(end, |len| from + len)
            }
            None => end..end,
        };
        let args = Span { start: start + args.start as u32, end: start + args.end as u32 };
        Ok(Normal { path: Path::Made(self.path), args, extension: self.extension })
    }

    fn decoded(&mut self) -> Result<Option<Decoded>, BadTarget> {
        let Some(&byte) = self.input.get(self.pos) else {
            return Ok(None);
        };
        self.pos += 1;
        if byte != b'%' {
            return Ok(Some(Decoded::Byte(byte)));
        }
        let mut digit = || {
            let digit = self.input.get(self.pos).copied().and_then(byte::hex).ok_or(BadTarget);
            self.pos += 1;
            digit
        };
        match digit()? << 4 | digit()? {
            0 => Err(BadTarget),
            byte @ (b'%' | b'#' | b'?') => Ok(Some(Decoded::Literal(byte))),
            byte => Ok(Some(Decoded::Byte(byte))),
        }
    }

    fn byte(&mut self, byte: u8) -> Result<(), BadTarget> {
        self.part = match (self.part, byte) {
            (Part::Usual, b'/') => {
                self.extension = None;
                self.path.push(byte);
                Part::Slash
            }
            (Part::Usual, b'.') => {
                self.path.push(byte);
                self.extension = Some(self.path.len() as u32);
                Part::Usual
            }
            (Part::Slash, b'/') => {
                if !self.merge_slashes {
                    self.path.push(byte);
                }
                Part::Slash
            }
            (Part::Slash, b'.') => {
                self.path.push(byte);
                Part::Dot
            }
            (Part::Dot, b'/') => {
                self.path.pop();
                Part::Slash
            }
            (Part::Dot, b'.') => {
                self.path.push(byte);
                Part::DotDot
            }
            (Part::DotDot, b'/') => {
                self.climb()?;
                Part::Slash
            }
            (Part::Usual | Part::Slash | Part::Dot | Part::DotDot, _) => {
                self.path.push(byte);
                Part::Usual
            }
        };
        Ok(())
    }

    /// The path ends with `/..`: cut it behind the slash before.
    fn climb(&mut self) -> Result<(), BadTarget> {
        self.path.truncate(self.path.len().saturating_sub(3));
        let slash = memchr::memrchr(b'/', &self.path).ok_or(BadTarget)?;
        self.path.truncate(slash + 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(target: &str, merge_slashes: bool) -> Option<(String, String, String)> {
        // behind other bytes, so that offsets are not those of the target alone
        let buf = Bytes::from(format!("GET {target}"));
        let span = Span::new(4, buf.len());
        let shape = Shape::of(&buf, span).ok()?;
        let normal = normalise(&buf, span, &shape, merge_slashes).ok()?;
        let changed = shape.complex || shape.quoted;
        assert_eq!(matches!(normal.path, Path::Made(_)), changed, "{target}");
        let path = normal.path(&buf).to_vec();
        let uri = normal.freeze(&buf).expect("a normal path is clean");
        assert_eq!(uri.path.bytes(), &path, "{target}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((text(&path), text(&uri.args), text(uri.extension())))
    }

    #[test]
    fn normal_forms() {
        // target, path, args, extension
        let cases = [
            ("/", "/", "", ""),
            ("/a/b.c?d=e", "/a/b.c", "d=e", "c"),
            ("/?", "/", "", ""),
            ("/a?b?c", "/a", "b?c", ""),
            ("/a#b", "/a", "", ""),
            ("/a?b#c", "/a", "b", ""),
            ("/a#b?c", "/a", "", ""),
            ("/a.b#c", "/a.b", "", "b"),
            ("//a///b//", "/a/b/", "", ""),
            ("/./a/./b/.", "/a/b/", "", ""),
            ("/a/b/../c", "/a/c", "", ""),
            ("/a/b/..", "/a/", "", ""),
            ("/a/b/../..", "/", "", ""),
            ("/a/..?x", "/", "x", ""),
            ("/a/.?x", "/a/", "x", ""),
            ("/a/..#x", "/", "", ""),
            ("/a//../b", "/b", "", ""),
            ("/..a/.b/...", "/..a/.b/...", "", ""),
            ("/.a.b", "/.a.b", "", "b"),
            ("/a.b/..", "/", "", ""),
            ("/a.b/c", "/a.b/c", "", ""),
            ("/a.", "/a.", "", ""),
            ("/%61%2Fb%2e%63", "/a/b.c", "", "c"),
            ("/a/%2e%2E/b", "/b", "", ""),
            ("/a/%2e/b", "/a/b", "", ""),
            ("/a/.%2e/b", "/b", "", ""),
            ("/a%2f%2f/b", "/a/b", "", ""),
            ("/%25%23%3f%3F?x", "/%#??", "x", ""),
            ("/%2541", "/%41", "", ""),
            ("/.%3f", "/.?", "", ""),
            ("/a%20b%0a%ff", "/a b\n\u{fffd}", "", ""),
            ("/a+b%2B", "/a+b+", "", ""),
            ("/+./x", "/+./x", "", ""),
            ("/a?b=%41/../c", "/a", "b=%41/../c", ""),
            ("/a%2e", "/a.", "", ""),
        ];
        for (target, path, args, extension) in cases {
            let expected = Some((path.into(), args.into(), extension.into()));
            assert_eq!(normal(target, true), expected, "{target}");
        }
    }

    #[test]
    fn slashes_may_stay() {
        assert_eq!(normal("//a///b//", false).map(|normal| normal.0), Some("//a///b//".into()));
        assert_eq!(normal("/a//../b", false).map(|normal| normal.0), Some("/a/b".into()));
        assert_eq!(normal("/a/.//b", false).map(|normal| normal.0), Some("/a//b".into()));
    }

    #[test]
    fn no_normal_form() {
        let cases = [
            "",
            "a",
            "*",
            "?a",
            "/..",
            "/../",
            "/../a",
            "/a/../..",
            "/a/../../b",
            "/%2e%2e",
            "/..?",
            "/..#",
            "//..",
            "/%",
            "/%2",
            "/%2?",
            "/%x1",
            "/%1x",
            "/%00",
            "/a%00b",
            "/a b",
            "/a\t",
            "/\u{7f}",
            "/a?\0",
            "/a?b c",
        ];
        for target in cases {
            assert_eq!(normal(target, true), None, "{target}");
        }
    }

    #[test]
    fn an_empty_path_is_a_slash() {
        let buf = b"GET http://a?b=c HTTP/1.1\r\n";
        let shape = Shape { empty_path: true, args: Some(13), ..Shape::default() };
        let normal = normalise(buf, Span::new(12, 16), &shape, true).expect("a normal form");
        assert_eq!((normal.path(buf), normal.args.of(buf)), (&b"/"[..], &b"b=c"[..]));
    }

    #[test]
    fn clean_paths() {
        for path in ["/", "", "/a/...", "/..a", "/a..", "/a../b", "/.", "a", "//"] {
            assert!(CleanPath::new(Bytes::from(path)).is_some(), "{path}");
        }
        for path in ["/..", "..", "/../", "../a", "/a/../b", "/a/..", "/.../..", "/a\0", "\0"] {
            assert!(CleanPath::new(Bytes::from(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn clean_is_what_has_no_segment_that_climbs() {
        let letters = b"/.a\0";
        for number in 0..4_u32.pow(7) {
            for len in [number as usize % 7 + 1, 7] {
                let at = |n: usize| letters[number as usize / 4_usize.pow(n as u32) % 4];
                let path: Vec<u8> = [vec![b'x'; 16 * (len % 2)], (0..len).map(at).collect()].concat();
                let climbs = path.split(|&byte| byte == b'/').any(|segment| segment == b"..");
                assert_eq!(is_clean(&path), !climbs && !path.contains(&0), "{path:?}");
            }
        }
    }

    #[test]
    fn a_wrong_buffer_is_no_way_around() {
        let buf = b"GET /abcdef HTTP/1.1";
        let span = Span::new(4, 11);
        let shape = Shape::of(buf, span).expect("a shape");
        let normal = normalise(buf, span, &shape, true).expect("a normal form");
        assert_eq!(normal.freeze(&Bytes::from_static(b"GET /../abc HTTP/1.1")), Err(BadTarget));
    }

    #[test]
    fn extensions_of_internal_targets() {
        let cases = [
            ("/a.b", Some(3)),
            ("/a.b.c", Some(5)),
            ("/.a", None),
            ("/a/.b", None),
            ("/a.b/c", None),
            ("/..a", Some(3)),
        ];
        for (path, start) in cases {
            assert_eq!(extension(path.as_bytes()), start, "{path}");
        }
    }
}
