//! One page: carries out its commands, and puts what they give in order.
//!
//! In: the body that has the commands. Out: text, and where it was asked for the bodies of other requests. The rule: what
//! was found in the page waits in one queue, in the order of the page; subrequests in it run side by side, the first one
//! sends. A page is read ahead of what is sent by at most [`AHEAD`] bytes, and not beyond a command that says `wait`.
//! nginx: `ngx_http_ssi_body_filter` and its commands, `ngx_http_postpone_filter`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::Dates;
use super::parse::{Command, Event, PARAMS, Param, Parser};
use super::text::{self, Fault, LONGEST, Variables};
use crate::http::body::{Body, Broken, FilePiece, Next, Piece, Source};
use crate::http::phase::{self, Unanswered};
use crate::http::plan::Later;
use crate::http::request::Request;
use crate::http::respond;
use crate::http::response::{Field, Head, Response};
use crate::http::subrequest;
use crate::log::{Level, Raw};
use crate::wire::uri::{self, Escape};

/// See the module's head.
pub struct Page {
    request: Rc<Request>,
    /// The page's own type, which a block has too where it stands for an answer.
    media: (Option<Bytes>, Option<usize>),
    silent_errors: bool,
    body: Body,
    parser: Parser,
    /// The piece that is being read, and what is left of the file it is from.
    input: Bytes,
    at: usize,
    file: Option<FilePiece>,
    queue: VecDeque<Part>,
    /// Bytes of the page that were read since the queue was last empty.
    ahead: usize,
    /// Subrequests at the end of the queue that nobody has polled yet.
    fresh: usize,
    /// Nothing is read before the queue is empty: a subrequest shall be complete first.
    waiting: bool,
    ended: bool,

    /// Text goes out; not so in a branch that is not taken, and in a block.
    output: bool,
    /// A branch of the `if` at hand was taken.
    chosen: bool,
    branch: Branch,
    in_block: bool,
    encoding: Encoding,
    errmsg: Bytes,
}

/// What waits to be sent.
enum Part {
    Piece(Piece),
    /// A subrequest that is being answered.
    Asking(Rc<Request>, Later<'static, Result<Body, Broken>>),
    Sending(Rc<Request>, Body),
    /// A subrequest that ended the connection.
    Broken,
}

/// Where in an `if` the page stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Branch {
    None,
    If,
    Else,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    None,
    Url,
    Entity,
}

/// So much of a page is read before what was found in it is sent: with the shortest commands some two thousand
/// subrequests at once.
const AHEAD: usize = 64 * 1024;

/// So much of a file is read at once: nginx's `output_buffers`.
const READ: usize = 32 * 1024;

/// What all pages of one answer share: it is kept with the client's own request.
#[derive(Default)]
struct Shared {
    variables: RefCell<Vec<(String, Bytes)>>,
    /// `$0` to `$9` of the last pattern that matched.
    groups: RefCell<Vec<Bytes>>,
    blocks: RefCell<Vec<Block>>,
    /// Bytes in all of these.
    size: Cell<usize>,
}

struct Block {
    name: Bytes,
    content: BytesMut,
}

/// The most that variables and blocks of one answer may hold.
const SHARED: usize = 4 * LONGEST;

impl Shared {
    fn of(request: &Request) -> Rc<Self> {
        request.main().extension()
    }

    fn value(&self, name: &str) -> Option<Bytes> {
        if let [digit @ b'0'..=b'9'] = name.as_bytes()
            && let Some(group) = self.groups.borrow().get(usize::from(digit - b'0'))
        {
            return Some(group.clone());
        }
        self.variables.borrow().iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn set(&self, name: &str, value: Bytes) -> Result<(), Fault> {
        self.grow(name.len() + value.len())?;
        // A copy: a slice would keep a piece of the page in memory.
        let value = Bytes::copy_from_slice(&value);
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => {
                self.size.set(self.size.get().saturating_sub(name.len() + known.len()));
                *known = value;
            }
            None => variables.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// Adds to the block that is open.
    fn append(&self, bytes: &[u8]) -> Result<(), Fault> {
        self.grow(bytes.len())?;
        if let Some(block) = self.blocks.borrow_mut().last_mut() {
            block.content.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn block(&self, name: &[u8]) -> Option<Bytes> {
        let blocks = self.blocks.borrow();
        blocks.iter().find(|block| block.name == name).map(|block| Bytes::copy_from_slice(&block.content))
    }

    fn grow(&self, more: usize) -> Result<(), Fault> {
        let size = self.size.get() + more;
        if size > SHARED {
            return Err("too much in SSI variables and blocks".to_owned());
        }
        self.size.set(size);
        Ok(())
    }
}

/// The variables of a page, then those of the configuration.
struct Scope<'a> {
    request: &'a Request,
    shared: Rc<Shared>,
}

impl Variables for Scope<'_> {
    fn value(&self, name: &str) -> Option<Bytes> {
        self.shared.value(name).or_else(|| self.request.value_of(name))
    }

    fn matched(&self, groups: Vec<Bytes>, named: Vec<(String, Bytes)>) {
        self.shared.groups.replace(groups);
        for (name, value) in named {
            if let Err(fault) = self.shared.set(&name, value) {
                log(self.request, fault);
            }
        }
    }
}

/// Logs what is wrong with a page, and what nginx is doing when it finds that.
fn log(request: &Request, message: impl std::fmt::Display) {
    request.log(Level::Error, format_args!("{message}{}", doing(request)));
}

fn doing(request: &Request) -> &'static str {
    match request.attempts.borrow().is_empty() {
        true => " while sending response to client",
        false => " while reading upstream",
    }
}

/// A row of the table of commands.
struct Known {
    name: &'static str,
    run: fn(&mut Page, &Arguments<'_>) -> Result<(), Fault>,
    params: &'static [&'static str],
    /// How many of `params` must be there, from the first on.
    mandatory: usize,
    /// A part of an `if`, allowed up to this branch.
    branch: Branch,
    /// Carried out within blocks too, to end them.
    block: bool,
}

const fn known(
    name: &'static str,
    run: fn(&mut Page, &Arguments<'_>) -> Result<(), Fault>,
    params: &'static [&'static str],
    mandatory: usize,
) -> Known {
    Known { name, run, params, mandatory, branch: Branch::None, block: false }
}

const COMMANDS: &[Known] = &[
    known("include", Page::include, &["virtual", "file", "wait", "set", "stub"], 0),
    known("echo", Page::echo, &["var", "default", "encoding"], 1),
    known("config", Page::config, &["errmsg", "timefmt"], 0),
    known("set", Page::set, &["var", "value"], 2),
    known("if", Page::begin_if, &["expr"], 1),
    Known { branch: Branch::If, ..known("elif", Page::choose, &["expr"], 1) },
    Known { branch: Branch::If, ..known("else", Page::begin_else, &[], 0) },
    Known { branch: Branch::Else, ..known("endif", Page::end_if, &[], 0) },
    known("block", Page::begin_block, &["name"], 1),
    Known { block: true, ..known("endblock", Page::end_block, &[], 0) },
];

/// The parameters of one command, by the places of its row.
#[derive(Default)]
struct Arguments<'a>([Option<&'a [u8]>; 5]);

impl<'a> Arguments<'a> {
    /// Puts the parameters into the places that the row has for them.
    fn new(row: &Known, command: &'a Command) -> Result<Self, Fault> {
        let name = row.name;
        if command.params.len() > PARAMS {
            return Err(format!("too many SSI command parameters: \"{name}\""));
        }
        let mut arguments = Self::default();
        for Param { name: param, value } in &command.params {
            let place = row.params.iter().position(|known| known.as_bytes() == param);
            let Some(place) = place.and_then(|place| arguments.0.get_mut(place)) else {
                let param = Raw(param);
                return Err(format!("invalid parameter name: \"{param}\" in \"{name}\" SSI command"));
            };
            if place.replace(value).is_some() {
                return Err(format!("duplicate \"{}\" parameter in \"{name}\" SSI command", Raw(param)));
            }
        }
        for (param, place) in row.params.iter().zip(&arguments.0).take(row.mandatory) {
            if place.is_none() {
                return Err(format!("mandatory \"{param}\" parameter is absent in \"{name}\" SSI command"));
            }
        }
        Ok(arguments)
    }

    fn at(&self, place: usize) -> Option<&'a [u8]> {
        self.0.get(place).copied().flatten()
    }

    /// A parameter that the row has as mandatory.
    fn must(&self, place: usize) -> &'a [u8] {
        self.at(place).unwrap_or_default()
    }
}

impl Page {
    /// The page that `body` is.
    pub fn new(request: &Rc<Request>, head: &Head, body: Body, value_length: usize, silent_errors: bool) -> Self {
        Self {
            request: request.clone(),
            media: (head.content_type.clone(), head.media_end),
            silent_errors,
            body,
            parser: Parser::new(value_length),
            input: Bytes::new(),
            at: 0,
            file: None,
            queue: VecDeque::new(),
            ahead: 0,
            fresh: 0,
            waiting: false,
            ended: false,
            output: true,
            chosen: false,
            branch: Branch::None,
            in_block: false,
            encoding: Encoding::Entity,
            errmsg: Bytes::from_static(b"[an error occurred while processing the directive]"),
        }
    }

    fn scope(&self) -> Scope<'_> {
        Scope { request: &self.request, shared: Shared::of(&self.request) }
    }

    fn log(&self, message: impl std::fmt::Display) {
        log(&self.request, message);
    }

    /// Reads on, as far as the page has come and is allowed to.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while !self.waiting {
            if self.at < self.input.len() {
                self.parse();
                continue;
            }
            if self.ended || self.ahead >= AHEAD {
                return Ok(());
            }
            if let Some(mut file) = self.file.take() {
                self.input = file.read(READ).map_err(|_| Broken)?;
                self.file = (file.len > 0).then_some(file);
            } else {
                match self.body.poll_piece(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(broken)) => return Err(broken),
                    Poll::Ready(Ok(None)) => self.ended = true,
                    Poll::Ready(Ok(Some(Piece::Flush))) => self.queue.push_back(Part::Piece(Piece::Flush)),
                    Poll::Ready(Ok(Some(Piece::Mem(bytes)))) => self.input = bytes,
                    Poll::Ready(Ok(Some(Piece::File(file)))) => {
                        self.file = Some(file);
                        continue;
                    }
                }
                if self.ended {
                    return Ok(());
                }
            }
            self.at = 0;
            self.ahead += self.input.len();
        }
        Ok(())
    }

    /// Takes one event from the input.
    fn parse(&mut self) {
        let Some(event) = self.parser.next(&self.input, &mut self.at) else {
            self.at = self.input.len();
            return;
        };
        match event {
            Event::Text(range) => self.text(self.input.slice(range)),
            Event::Held(text) => self.text(Bytes::from_static(text)),
            Event::Command(command) => {
                if let Err(fault) = self.command(&command) {
                    self.log(fault);
                    self.show_error();
                }
            }
            Event::Fault(message) => self.log(Raw(&message)),
            Event::Broken => self.show_error(),
        }
    }

    fn text(&mut self, text: Bytes) {
        if self.output {
            self.queue.push_back(Part::Piece(Piece::Mem(text)));
        } else if self.in_block {
            self.keep(&text);
        }
    }

    /// Keeps what stands in a block.
    fn keep(&self, text: &[u8]) {
        if let Err(fault) = Shared::of(&self.request).append(text) {
            self.log(fault);
        }
    }

    fn show_error(&mut self) {
        if !self.silent_errors && !self.errmsg.is_empty() {
            self.queue.push_back(Part::Piece(Piece::Mem(self.errmsg.clone())));
        }
    }

    fn command(&mut self, command: &Command) -> Result<(), Fault> {
        let Some(row) = COMMANDS.iter().find(|row| row.name.as_bytes() == command.name) else {
            return match self.output {
                true => Err(format!("invalid SSI command: \"{}\"", Raw(&command.name))),
                false => Ok(()),
            };
        };
        if !self.output && !row.block {
            if self.in_block {
                self.keep(&written(command));
                return Ok(());
            }
            if row.branch == Branch::None {
                return Ok(());
            }
        }
        if row.branch != Branch::None && (self.branch == Branch::None || self.branch > row.branch) {
            return Err(format!("invalid context of SSI command: \"{}\"", row.name));
        }
        let arguments = Arguments::new(row, command)?;
        (row.run)(self, &arguments)
    }

    /// `include virtual="/path" | file="path" [wait="yes"] [set="name"] [stub="block"]`
    fn include(&mut self, arguments: &Arguments<'_>) -> Result<(), Fault> {
        let (set, stub) = (arguments.at(3), arguments.at(4));
        let (path, mut wait) = match (arguments.at(0), arguments.at(1)) {
            (Some(path), Some(file)) => {
                let (path, file) = (Raw(path), Raw(file));
                return Err(format!("inclusion may be either virtual=\"{path}\" or file=\"{file}\""));
            }
            (None, None) => return Err("no parameter in \"include\" SSI command".to_owned()),
            (Some(path), None) => (path, false),
            (None, Some(file)) => (file, true),
        };
        if set.is_some() && stub.is_some() {
            return Err("\"set\" and \"stub\" cannot be used together in \"include\" SSI command".to_owned());
        }
        if let Some(word) = arguments.at(2) {
            if wait {
                return Err(format!("\"wait\" cannot be used with file=\"{}\"", Raw(path)));
            }
            wait = match word.to_ascii_lowercase().as_slice() {
                b"yes" => true,
                b"no" => false,
                _ => return Err(format!("invalid value \"{}\" in the \"wait\" parameter", Raw(word))),
            };
        }
        let path = self.resolve(path, text::evaluate(path, &self.scope())?);
        let Ok(safe) = uri::untrusted(&path) else {
            return Err(format!("unsafe URI \"{}\" was detected", Raw(&path)));
        };
        let block = match stub {
            None => None,
            Some(stub) => Some(
                Shared::of(&self.request)
                    .block(stub)
                    .ok_or_else(|| format!("\"stub\"=\"{}\" for \"include\" not found", Raw(stub)))?,
            ),
        };
        let set = set.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase());
        if let Some(name) = &set {
            let shared = Shared::of(&self.request);
            if shared.value(name).is_none() {
                shared.set(name, Bytes::new())?;
            }
        }
        let args = Bytes::copy_from_slice(safe.args.unwrap_or_default());
        let path = Bytes::copy_from_slice(&safe.path);
        let Some(child) = subrequest::new(&self.request, path, args, doing(&self.request)) else {
            self.show_error(); // the log has it
            return Ok(());
        };
        self.waiting = wait || set.is_some();
        let answer: Later<'static, Result<Body, Broken>> = match (set, block) {
            (Some(name), _) => Box::pin(stored(child.clone(), name)),
            (None, Some(block)) => Box::pin(stubbed(child.clone(), block, self.media.clone())),
            (None, None) => Box::pin(subrequest::body(child.clone())),
        };
        self.queue.push_back(Part::Asking(child, answer));
        self.fresh += 1;
        Ok(())
    }

    /// A path without a slash in front is meant from where the page is; none at all, where variables said nothing, is
    /// no path.
    fn resolve(&self, written: &[u8], path: Bytes) -> Bytes {
        if path.starts_with(b"/") || (path.is_empty() && !written.is_empty()) {
            return path;
        }
        let own = self.request.path();
        let directory = memchr::memrchr(b'/', &own).map_or(0, |slash| slash + 1);
        [own.get(..directory).unwrap_or_default(), &path].concat().into()
    }

    /// `echo var="name" [default="text"] [encoding="none | url | entity"]`
    fn echo(&mut self, arguments: &Arguments<'_>) -> Result<(), Fault> {
        let name = String::from_utf8_lossy(arguments.must(0)).to_ascii_lowercase();
        let value = self.scope().value(&name);
        let default = || Bytes::copy_from_slice(arguments.at(1).unwrap_or(b"(none)"));
        let value = value.unwrap_or_else(default);
        if value.is_empty() {
            return Ok(());
        }
        match arguments.at(2) {
            None => {}
            Some(b"none") => self.encoding = Encoding::None,
            Some(b"url") => self.encoding = Encoding::Url,
            Some(b"entity") => self.encoding = Encoding::Entity,
            Some(other) => self.log(format_args!("unknown encoding \"{}\" in the \"echo\" command", Raw(other))),
        }
        let value = match self.encoding {
            Encoding::None => value,
            Encoding::Url => uri::escape(Escape::Html, &value).into_owned().into(),
            Encoding::Entity => uri::escape_html(&value).into_owned().into(),
        };
        self.queue.push_back(Part::Piece(Piece::Mem(value)));
        Ok(())
    }

    /// `config [errmsg="text"] [timefmt="format"]`
    fn config(&mut self, arguments: &Arguments<'_>) -> Result<(), Fault> {
        if let Some(errmsg) = arguments.at(0) {
            self.errmsg = Bytes::copy_from_slice(errmsg);
        }
        if let Some(format) = arguments.at(1) {
            self.request.extension::<Dates>().format.replace(Some(Bytes::copy_from_slice(format)));
        }
        Ok(())
    }

    /// `set var="name" value="text"`
    fn set(&mut self, arguments: &Arguments<'_>) -> Result<(), Fault> {
        let name = String::from_utf8_lossy(arguments.must(0)).to_ascii_lowercase();
        let value = text::evaluate(arguments.must(1), &self.scope())?;
        Shared::of(&self.request).set(&name, value)
    }

    /// `if expr="..."`
    fn begin_if(&mut self, arguments: &Arguments<'_>) -> Result<(), Fault> {
        if self.branch != Branch::None {
            return Err("the \"if\" command inside the \"if\" command".to_owned());
        }
        self.choose(arguments)
    }

    /// `if` and `elif`.
    fn choose(&mut self, arguments: &Arguments<'_>) -> Result<(), Fault> {
        if self.chosen {
            self.output = false;
            return Ok(());
        }
        self.output = text::is_true(arguments.must(0), &self.scope())?;
        self.chosen = self.output;
        self.branch = Branch::If;
        Ok(())
    }

    /// `else`
    fn begin_else(&mut self, _: &Arguments<'_>) -> Result<(), Fault> {
        self.output = !self.chosen;
        self.branch = Branch::Else;
        Ok(())
    }

    /// `endif`
    fn end_if(&mut self, _: &Arguments<'_>) -> Result<(), Fault> {
        self.output = true;
        self.chosen = false;
        self.branch = Branch::None;
        Ok(())
    }

    /// `block name="name"`
    fn begin_block(&mut self, arguments: &Arguments<'_>) -> Result<(), Fault> {
        let name = Bytes::copy_from_slice(arguments.must(0));
        let shared = Shared::of(&self.request);
        shared.grow(name.len())?;
        shared.blocks.borrow_mut().push(Block { name, content: BytesMut::new() });
        self.output = false;
        self.in_block = true;
        Ok(())
    }

    /// `endblock`
    fn end_block(&mut self, _: &Arguments<'_>) -> Result<(), Fault> {
        self.output = true;
        self.in_block = false;
        Ok(())
    }

    /// Starts the subrequests that were found last.
    fn start(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.fresh) > 0 {
            self.work(cx);
        }
    }

    /// Lets every subrequest get on with its answer.
    fn work(&mut self, cx: &mut Context<'_>) {
        for part in &mut self.queue {
            let Part::Asking(child, answer) = part else { continue };
            *part = match answer.as_mut().poll(cx) {
                Poll::Pending => continue,
                Poll::Ready(Ok(body)) => Part::Sending(child.clone(), body),
                Poll::Ready(Err(Broken)) => Part::Broken,
            };
        }
    }
}

impl Source for Page {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            self.read(cx)?;
            self.start(cx);
            match self.queue.front_mut() {
                Some(Part::Piece(_)) => {
                    if let Some(Part::Piece(piece)) = self.queue.pop_front() {
                        return Poll::Ready(Ok(Some(piece)));
                    }
                }
                Some(Part::Asking(..)) => {
                    self.work(cx);
                    if let Some(Part::Asking(..)) = self.queue.front() {
                        return Poll::Pending;
                    }
                }
                Some(Part::Sending(child, body)) => match body.poll_piece(cx) {
                    Poll::Ready(Ok(Some(piece))) => return Poll::Ready(Ok(Some(piece))),
                    // nginx: a part that breaks off is logged and leaves a gap; the page goes on.
                    Poll::Ready(Ok(None) | Err(Broken)) => {
                        subrequest::finish(child);
                        self.queue.pop_front();
                    }
                    Poll::Pending => {
                        self.work(cx);
                        return Poll::Pending;
                    }
                },
                Some(Part::Broken) => return Poll::Ready(Err(Broken)),
                None => {
                    self.ahead = 0;
                    if !std::mem::take(&mut self.waiting) {
                        return match self.ended {
                            true => Poll::Ready(Ok(None)),
                            false => Poll::Pending,
                        };
                    }
                }
            }
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        self.work(cx);
        match self.queue.front_mut() {
            Some(Part::Sending(_, body)) => body.poll_ahead(cx),
            _ => self.body.poll_ahead(cx),
        }
    }

    fn promises_trailers(&self) -> bool {
        self.body.promises_trailers()
    }

    fn trailers(&mut self) -> Vec<Field> {
        self.body.trailers()
    }
}

/// Keeps the answer in a variable. Only a good one is kept.
async fn stored(child: Rc<Request>, name: String) -> Result<Body, Broken> {
    let response = subrequest::answer(&child).await.map_err(|phase::Hangup| Broken)?;
    subrequest::answered(&child, &response);
    let status = response.head.status;
    let value = subrequest::in_memory(&child, response).await?;
    if status < 300
        && let Err(fault) = Shared::of(&child).set(&name, value)
    {
        log(&child, fault);
    }
    Ok(Body::Empty)
}

/// The body of a subrequest's answer; the block, if it has none or is an error.
async fn stubbed(
    child: Rc<Request>,
    block: Bytes,
    (content_type, media_end): (Option<Bytes>, Option<usize>),
) -> Result<Body, Broken> {
    let stub = Response::new(Head { content_type, media_end, ..Head::new(200) }, Body::memory(block.clone()));
    match phase::attempt(&child).await {
        Ok(mut response) => {
            subrequest::answered(&child, &response);
            let first = loop {
                match subrequest::next(&mut response.body).await? {
                    Some(piece) if piece.is_empty() => {}
                    other => break other,
                }
            };
            Ok(match first {
                Some(first) => Body::stream(Joined { first: Some(first), rest: response.body }),
                None if response.head.content_length == Some(0) => Body::memory(block),
                None => respond::complete(&child, stub).map_err(|_| Broken)?.body,
            })
        }
        // nginx: the log shows no status, for there is no answer.
        Err(Unanswered::Refused(_)) => Ok(respond::complete(&child, stub).map_err(|_| Broken)?.body),
        Err(Unanswered::Hangup) => Err(Broken),
    }
}

/// A body whose first piece was looked at.
struct Joined {
    first: Option<Piece>,
    rest: Body,
}

impl Source for Joined {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match self.first.take() {
            Some(piece) => Poll::Ready(Ok(Some(piece))),
            None => self.rest.poll_piece(cx),
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        self.rest.poll_ahead(cx);
    }
}

/// A command as a block keeps it, to be read again where the block is used.
fn written(command: &Command) -> Vec<u8> {
    let mut out = [b"<!--#", command.name.as_slice()].concat();
    for Param { name, value } in &command.params {
        out.extend_from_slice(b" ");
        out.extend_from_slice(name);
        out.extend_from_slice(b"=\"");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\"");
    }
    out.extend_from_slice(b" -->");
    out
}
