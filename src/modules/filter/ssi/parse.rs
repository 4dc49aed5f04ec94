//! Finds commands in a page that comes in pieces.
//!
//! In: bytes, cut anywhere. Out: in order, stretches of text, and commands with their parameters. The rule: a stretch is
//! a range of the piece at hand, so text is never copied; only a command is put together in memory, and its parts have
//! nginx's limits. nginx: `ngx_http_ssi_parse`.

use std::ops::Range;

/// One command: `<!--#name parameter="value" ... -->`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    pub name: Vec<u8>,
    pub params: Vec<Param>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Param {
    pub name: Vec<u8>,
    /// As written: backslashes are still there.
    pub value: Vec<u8>,
}

/// What comes next in a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Text in the piece at hand.
    Text(Range<usize>),
    /// Text that earlier pieces ended in, for it looked like the beginning of a command.
    Held(&'static [u8]),
    Command(Command),
    /// A command is not one: what the log says of it. Its end follows as [`Event::Broken`].
    Fault(Vec<u8>),
    /// The end of what was at fault.
    Broken,
}

/// See the module's head.
pub struct Parser {
    state: State,
    command: Command,
    /// `ssi_value_length`.
    value_length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    /// So much of `<!--#` was seen.
    Mark(usize),
    BeforeName,
    Name,
    BeforeParam,
    Param,
    BeforeEquals,
    BeforeValue,
    /// Within these quotes.
    Value(u8),
    /// Behind a backslash within these quotes.
    Escaped(u8),
    AfterValue,
    /// Behind the first hyphen of `-->`.
    End0,
    End1,
    /// Skipping what is at fault.
    Fault,
    FaultEnd0,
    FaultEnd1,
}

const MARK: &[u8] = b"<!--#";

/// nginx's longest name of a command, and of a parameter.
const NAME: usize = 32;

/// More parameters than any command takes; those beyond are not kept.
pub const PARAMS: usize = 16;

impl Parser {
    pub fn new(value_length: usize) -> Self {
        Self { state: State::Text, command: Command::default(), value_length }
    }

    /// The next event in `piece` from `at` on, which moves behind it. `None`: the piece is used up.
    pub fn next(&mut self, piece: &[u8], at: &mut usize) -> Option<Event> {
        if *at >= piece.len() {
            return None;
        }
        match self.state {
            State::Text => self.text(piece, at),
            State::Mark(seen) => self.mark(piece, at, seen),
            _ => self.inside(piece, at),
        }
    }

    /// Looks for the beginning of a command.
    fn text(&mut self, piece: &[u8], at: &mut usize) -> Option<Event> {
        let start = *at;
        let mut from = start;
        loop {
            let rest = piece.get(from..).unwrap_or_default();
            let Some(found) = memchr::memchr(b'<', rest) else {
                *at = piece.len();
                return Some(Event::Text(start..piece.len()));
            };
            let rest = rest.get(found..).unwrap_or_default();
            let seen = rest.iter().zip(MARK).take_while(|(byte, mark)| byte == mark).count();
            from += found;
            if seen == MARK.len() {
                self.state = State::BeforeName;
            } else if seen == rest.len() {
                self.state = State::Mark(seen);
            } else {
                // What follows may be the beginning after all.
                from += seen;
                continue;
            }
            *at = from + seen;
            if from > start {
                return Some(Event::Text(start..from));
            }
            return self.next(piece, at);
        }
    }

    /// Goes on with a beginning that an earlier piece ended in.
    fn mark(&mut self, piece: &[u8], at: &mut usize, seen: usize) -> Option<Event> {
        let rest = piece.get(*at..).unwrap_or_default();
        let wanted = MARK.get(seen..).unwrap_or_default();
        let more = rest.iter().zip(wanted).take_while(|(byte, mark)| byte == mark).count();
        if more == wanted.len() {
            self.state = State::BeforeName;
        } else if more == rest.len() {
            self.state = State::Mark(seen + more);
        } else {
            // Only what earlier pieces held is lost to us; the rest is text of this one.
            self.state = State::Text;
            return Some(Event::Held(MARK.get(..seen).unwrap_or_default()));
        }
        *at += more;
        self.next(piece, at)
    }

    /// Reads a command, or skips a broken one.
    fn inside(&mut self, piece: &[u8], at: &mut usize) -> Option<Event> {
        while let Some(&byte) = piece.get(*at) {
            *at += 1;
            if let Some(event) = self.step(byte) {
                return Some(event);
            }
        }
        None
    }

    fn step(&mut self, byte: u8) -> Option<Event> {
        let blank = matches!(byte, b' ' | b'\r' | b'\n' | b'\t');
        self.state = match (self.state, byte) {
            (State::BeforeName | State::BeforeParam | State::BeforeEquals | State::BeforeValue, _) if blank => {
                return None;
            }
            (State::BeforeName, _) => {
                self.command = Command { name: vec![byte], params: Vec::new() };
                State::Name
            }
            (State::Name, _) if blank => State::BeforeParam,
            (State::Name | State::BeforeParam | State::AfterValue, b'-') => State::End0,
            (State::Name, _) if self.command.name.len() == NAME => {
                return self.fault(&[b"the \"", self.name(), &[byte], b"...\" SSI command is too long"].concat());
            }
            (State::Name, _) => {
                self.command.name.push(byte);
                State::Name
            }
            (State::BeforeParam, _) => {
                self.command.params.truncate(PARAMS);
                self.command.params.push(Param { name: vec![byte], value: Vec::new() });
                State::Param
            }
            (State::Param, _) if blank => State::BeforeEquals,
            (State::Param | State::BeforeEquals, b'=') => State::BeforeValue,
            (State::Param, b'-') | (State::BeforeEquals, _) => return self.unexpected(byte, b"after"),
            (State::Param, _) if self.param().name.len() == NAME => {
                let name = &self.param().name.clone();
                let message = [b"too long \"", name.as_slice(), &[byte], b"...\" parameter in "];
                return self.fault_of_command(&message.concat());
            }
            (State::Param, _) => {
                self.param().name.push(byte);
                State::Param
            }
            (State::BeforeValue, b'"' | b'\'') => State::Value(byte),
            (State::BeforeValue, _) => return self.unexpected(byte, b"before value of"),
            (State::Value(quote), _) if byte == quote => State::AfterValue,
            (State::Value(quote) | State::Escaped(quote), _) => {
                if self.param().value.len() == self.value_length {
                    return self.too_long(byte);
                }
                self.param().value.push(byte);
                match self.state {
                    State::Value(_) if byte == b'\\' => State::Escaped(quote),
                    _ => State::Value(quote),
                }
            }
            (State::AfterValue, _) if blank => State::BeforeParam,
            (State::AfterValue, _) => {
                let param = self.param().clone();
                let (value, name) = (param.value.as_slice(), param.name.as_slice());
                let (byte, end) = ([byte], b"\" parameter in ".as_slice());
                let message =
                    [b"unexpected \"", byte.as_slice(), b"\" symbol after \"", value, b"\" value of \"", name, end];
                return self.fault_of_command(&message.concat());
            }
            (State::End0, b'-') => State::End1,
            (State::End1, b'>') => {
                self.state = State::Text;
                return Some(Event::Command(std::mem::take(&mut self.command)));
            }
            (State::End0 | State::End1, _) => {
                return self.fault_of_command(&[b"unexpected \"".as_slice(), &[byte], b"\" symbol in "].concat());
            }
            (State::Fault, b'-') => State::FaultEnd0,
            (State::FaultEnd0, b'-') => State::FaultEnd1,
            (State::FaultEnd1, b'>') => {
                self.state = State::Text;
                return Some(Event::Broken);
            }
            (State::Fault | State::FaultEnd0 | State::FaultEnd1, _) => State::Fault,
            (State::Text | State::Mark(_), _) => State::Text, // `next` sends these elsewhere
        };
        None
    }

    /// The parameter at hand: the states that ask come behind one.
    fn param(&mut self) -> &mut Param {
        if self.command.params.is_empty() {
            self.command.params.push(Param::default());
        }
        let last = self.command.params.len() - 1;
        &mut self.command.params[last]
    }

    fn name(&self) -> &[u8] {
        &self.command.name
    }

    fn unexpected(&mut self, byte: u8, place: &[u8]) -> Option<Event> {
        let name = self.param().name.clone();
        let shown = [byte];
        let message = [b"unexpected \"", shown.as_slice(), b"\" symbol ", place, b" \"", &name, b"\" parameter in "];
        let event = self.fault_of_command(&message.concat());
        if byte == b'-' {
            self.state = State::FaultEnd0;
        }
        event
    }

    fn too_long(&mut self, byte: u8) -> Option<Event> {
        let param = self.param().clone();
        let message =
            [b"too long \"", param.value.as_slice(), &[byte], b"...\" value of \"", &param.name, b"\" parameter in "];
        self.fault_of_command(&message.concat())
    }

    fn fault_of_command(&mut self, message: &[u8]) -> Option<Event> {
        let message = [message, b"\"", self.name(), b"\" SSI command"].concat();
        self.fault(&message)
    }

    fn fault(&mut self, message: &[u8]) -> Option<Event> {
        self.state = State::Fault;
        Some(Event::Fault(message.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a page is, cut into these pieces: text in one run, commands as `{name a=b}`, faults as `[..]` and `!`.
    fn read(pieces: &[&[u8]]) -> String {
        let mut parser = Parser::new(16);
        let mut out = String::new();
        for piece in pieces {
            let mut at = 0;
            while let Some(event) = parser.next(piece, &mut at) {
                match event {
                    Event::Text(range) => out += std::str::from_utf8(&piece[range]).expect("text"),
                    Event::Held(text) => out += std::str::from_utf8(text).expect("text"),
                    Event::Command(command) => {
                        out += &format!("{{{}", String::from_utf8_lossy(&command.name));
                        for param in command.params {
                            let (name, value) =
                                (String::from_utf8_lossy(&param.name), String::from_utf8_lossy(&param.value));
                            out += &format!(" {name}={value}");
                        }
                        out += "}";
                    }
                    Event::Fault(message) => out += &format!("[{}]", String::from_utf8_lossy(&message)),
                    Event::Broken => out += "!",
                }
            }
        }
        out
    }

    const PAGES: [(&str, &str); 24] = [
        ("plain", "plain"),
        ("a <b> c", "a <b> c"),
        ("a<!-- no --><!-b<!--b", "a<!-- no --><!-b<!--b"),
        ("<<<!--#x--><", "<<{x}"),
        ("<!<!-<!--<!--#x-->.", "<!<!-<!--{x}."),
        ("a<!--#include virtual=\"/b\" -->c", "a{include virtual=/b}c"),
        ("<!--# include\tvirtual = '/b'\r\n-->", "{include virtual=/b}"),
        ("<!--#echo var='a' default=\"\"-->x<!--#endif-->", "{echo var=a default=}x{endif}"),
        ("<!--#a b='x\\'y' c=\"\\\\\"-->", "{a b=x\\'y c=\\\\}"),
        ("<!--#a b=\"'\" c='\"'-->", "{a b=' c=\"}"),
        ("<!--#a b-c='x'-->z", "[unexpected \"-\" symbol after \"b\" parameter in \"a\" SSI command]!z"),
        ("<!--#a b c-->z", "[unexpected \"c\" symbol after \"b\" parameter in \"a\" SSI command]!z"),
        ("<!--#a b -->z", "[unexpected \"-\" symbol after \"b\" parameter in \"a\" SSI command]!z"),
        ("<!--#a b=c-->z", "[unexpected \"c\" symbol before value of \"b\" parameter in \"a\" SSI command]!z"),
        ("<!--#a b=-->z", "[unexpected \"-\" symbol before value of \"b\" parameter in \"a\" SSI command]!z"),
        ("<!--#a b=''c -->", "[unexpected \"c\" symbol after \"\" value of \"b\" parameter in \"a\" SSI command]!"),
        ("<!--#a - -->", "[unexpected \" \" symbol in \"a\" SSI command]!"),
        ("<!--#a ---->", "[unexpected \"-\" symbol in \"a\" SSI command]"),
        ("<!--#a --x-- -->z", "[unexpected \"x\" symbol in \"a\" SSI command]!z"),
        ("<!--#a b='0123456789abcdef'-->", "{a b=0123456789abcdef}"),
        (
            "<!--#a b='0123456789abcdefg'-->",
            "[too long \"0123456789abcdefg...\" value of \"b\" parameter in \"a\" SSI command]!",
        ),
        ("<!--#a2345678901234567890123456789012 -->", "{a2345678901234567890123456789012}"),
        (
            "<!--#a23456789012345678901234567890123 -->",
            "[the \"a23456789012345678901234567890123...\" SSI command is too long]!",
        ),
        (
            "<!--#a a23456789012345678901234567890123='' -->",
            "[too long \"a23456789012345678901234567890123...\" parameter in \"a\" SSI command]!",
        ),
    ];

    #[test]
    fn whole_pages() {
        for (page, expected) in PAGES {
            assert_eq!(read(&[page.as_bytes()]), expected, "{page}");
        }
    }

    #[test]
    fn pages_cut_anywhere() {
        for (page, expected) in PAGES {
            let page = page.as_bytes();
            for one in 0..page.len() {
                assert_eq!(read(&[&page[..one], &page[one..]]), expected, "cut at {one}");
                for two in one..page.len() {
                    assert_eq!(read(&[&page[..one], &page[one..two], &page[two..]]), expected, "cut at {one}, {two}");
                }
            }
            let bytes: Vec<&[u8]> = page.chunks(1).collect();
            assert_eq!(read(&bytes), expected, "in bytes");
        }
    }

    #[test]
    fn parameters_beyond_the_limit_are_not_kept() {
        let many = "p='v' ".repeat(1000);
        let page = format!("<!--#x {many}-->");
        let mut parser = Parser::new(16);
        let Some(Event::Command(command)) = parser.next(page.as_bytes(), &mut 0) else { panic!("a command") };
        assert_eq!(command.params.len(), PARAMS + 1);
    }

    /// Random pages of the pieces that matter, cut at random: the same events, and whatever parameters say is read.
    #[test]
    fn random_pages_cut_at_random() {
        use super::super::text::{self, Variables, Zone};

        struct Names;
        impl Variables for Names {
            fn value(&self, name: &str) -> Option<bytes::Bytes> {
                name.len().is_multiple_of(2).then(|| bytes::Bytes::copy_from_slice(name.as_bytes()))
            }

            fn matched(&self, _: Vec<bytes::Bytes>, _: Vec<(String, bytes::Bytes)>) {}
        }

        const PARTS: [&str; 30] = [
            "<",
            "!",
            "-",
            "--",
            "#",
            "<!--#",
            "-->",
            " ",
            "\n",
            "=",
            "\"",
            "'",
            "\\",
            "a",
            "if",
            "expr",
            "include",
            "$",
            "${",
            "}",
            "$ab",
            "/",
            "(",
            ")",
            "*",
            "!=",
            "%Z",
            "%",
            "<!--#set var=\"a\" value='",
            "\u{e9}",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % below
        };
        let mut commands = 0;
        for _ in 0..20_000 {
            let page: String = (0..next(40)).map(|_| PARTS[next(PARTS.len())]).collect();
            let page = page.as_bytes();
            let at = next(page.len() + 1);
            let read = |pieces: &[&[u8]]| {
                let (mut parser, mut text, mut events) = (Parser::new(16), Vec::new(), Vec::new());
                for piece in pieces {
                    let mut at = 0;
                    while let Some(event) = parser.next(piece, &mut at) {
                        match event {
                            Event::Text(range) => text.extend_from_slice(&piece[range]),
                            Event::Held(held) => text.extend_from_slice(held),
                            other => events.push((std::mem::take(&mut text), other)),
                        }
                    }
                }
                (events, text)
            };
            let whole = read(&[page]);
            assert_eq!(whole, read(&[&page[..at], &page[at..]]), "{page:?} at {at}");
            for (_, event) in &whole.0 {
                let Event::Command(command) = event else { continue };
                commands += 1;
                for param in &command.params {
                    let _ = text::evaluate(&param.value, &Names);
                    let _ = text::is_true(&param.value, &Names);
                    let _ = text::date(&param.value, Zone::Local);
                }
            }
        }
        assert!(commands > 500, "only {commands} commands");
    }
}
