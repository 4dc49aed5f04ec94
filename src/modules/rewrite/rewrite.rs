//! `rewrite`, `return`, `if`, `set`, `break`: a small program for each server and each location.
//!
//! In: the path and the variables of a request. Out: another path, another value, a finished answer, or another level:
//! an `if` block is a level of its own, which the request enters when its condition holds. The rule is nginx's
//! (`ngx_http_script.c`): the steps of a location run from the top to the bottom, those of an `if` block in its place,
//! and whoever changes the path has the location looked up anew once the program is over.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use crate::base::text::errno;
use crate::conf::error::Fault;
use crate::conf::module::{
    Arity, Directive, HTTP, IF_LOCATION, IF_SERVER, LOCATION, Level, Module, Place, SERVER, Section,
};
use crate::conf::pattern::{Matching, Regex};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::vars::{Row, Value, Values, VarId};
use crate::conf::words::Words;
use crate::http::body::Body;
use crate::http::open_file;
use crate::http::plan::{Gate, LocationId, Main, Plan, Verdict};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal, Response};
use crate::log::{Level as LogLevel, Raw};
use crate::modules::content::static_file::content_type;
use crate::wire::uri::{self, Escape};

/// `ngx_http_rewrite_module`.
pub struct Rewrite;

/// Where steps may stand.
const STEP: Place = SERVER.or(IF_SERVER).or(LOCATION).or(IF_LOCATION);

impl Module for Rewrite {
    const NAME: &'static str = "http_rewrite";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("rewrite", STEP, Arity::Between(2, 3), Conf::rewrite),
        Directive::location("return", STEP, Arity::Between(1, 2), Conf::r#return),
        Directive::location("break", STEP, Arity::None, Conf::r#break),
        Directive::level("if", SERVER.or(LOCATION), Arity::AtLeast(1), inside_if, Conf::r#if),
        Directive::location("set", STEP, Arity::Exactly(2), Conf::set),
        Directive::location("rewrite_log", HTTP.or(STEP), Arity::Flag, Conf::rewrite_log),
        Directive::location(
            "uninitialized_variable_warn",
            HTTP.or(STEP),
            Arity::Flag,
            Conf::uninitialized_variable_warn,
        ),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        main.vars.unassigned(|id| Row::once(move |request: &Request| unassigned(request, id)));
        Ok(())
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        plan.quiet_unassigned = !conf.uninitialized_variable_warn.or(true);
        // The steps of an `if` block are a part of the program around it.
        if conf.steps.is_empty() || IF_SERVER.or(IF_LOCATION).has(level.place()) {
            return Ok(());
        }
        let steps = assemble(level);
        let loud = conf.rewrite_log.or(false);
        plan.rewrite.push(Box::new(Program { steps, loud, switches: level.place() == LOCATION }));
        Ok(())
    }
}

fn inside_if(around: Place) -> Place {
    if around == SERVER { IF_SERVER } else { IF_LOCATION }
}

/// The steps of a level, with those of its `if` blocks in their places.
fn assemble(level: &Level<'_>) -> Vec<Step> {
    let mut steps = level.location::<Rewrite>().steps.clone();
    for step in &mut steps {
        if let Step::If { block, then, .. } = step {
            *then = level.children().nth(*block).map(|inner| assemble(&inner)).unwrap_or_default();
        }
    }
    steps
}

/// The value of a variable that `set` has not reached.
fn unassigned(request: &Request, id: VarId) -> Value {
    if !request.plan().quiet_unassigned {
        let name = request.http().vars.name(id);
        request.log(LogLevel::Warn, format_args!("using uninitialized \"{name}\" variable"));
    }
    Some(Bytes::new())
}

#[derive(Default)]
pub struct Conf {
    /// Not inherited: a program belongs to its own level.
    steps: Vec<Step>,
    rewrite_log: Setting<bool>,
    uninitialized_variable_warn: Setting<bool>,
}

impl Conf {
    /// Syntax: `rewrite regex replacement [last | break | redirect | permanent];`
    fn rewrite(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.steps.push(Step::Rewrite(Rule::read(words)?));
        Ok(())
    }

    /// Syntax: `return code [text];`, `return code URL;`, `return URL;`
    fn r#return(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.steps.push(Step::Return(Return::read(words)?));
        Ok(())
    }

    /// Syntax: `break;`
    fn r#break(&mut self, _: &Words<'_>) -> Result<(), Fault> {
        self.steps.push(Step::Break);
        Ok(())
    }

    /// Syntax: `if (condition) { ... }`
    fn r#if(&mut self, _: &mut Self, words: &Words<'_>) -> Result<(), Fault> {
        let test = Test::read(words)?;
        self.steps.push(Step::If { test, block: words.child, then: Vec::new() });
        Ok(())
    }

    /// Syntax: `set $variable value;`
    fn set(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let name = words.variable(0)?;
        let variable = words.cx.names.assigned(name, words.at());
        self.steps.push(Step::Set { variable, value: words.template(1)? });
        Ok(())
    }

    /// Syntax: `rewrite_log on | off;`  Default: `off`
    fn rewrite_log(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.rewrite_log.set(words.flag()?)
    }

    /// Syntax: `uninitialized_variable_warn on | off;`  Default: `on`
    fn uninitialized_variable_warn(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.uninitialized_variable_warn.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { steps: _, rewrite_log, uninitialized_variable_warn } = self;
        rewrite_log.inherit(&outer.rewrite_log);
        uninitialized_variable_warn.inherit(&outer.uninitialized_variable_warn);
        Ok(())
    }
}

#[derive(Clone)]
enum Step {
    Rewrite(Rule),
    Return(Return),
    Break,
    Set {
        variable: VarId,
        value: Template,
    },
    If {
        test: Test,
        /// The block's number among the blocks of its location.
        block: usize,
        then: Vec<Step>,
    },
}

/// The program of one level, finished.
struct Program {
    steps: Vec<Step>,
    /// `rewrite_log on`
    loud: bool,
    /// An `if` block becomes the request's location. One in a server does not: its location is yet to be found.
    switches: bool,
}

/// What lives as long as one run of a program.
struct Run<'a> {
    request: &'a Rc<Request>,
    program: &'a Program,
    /// The blocks of the location where the run began.
    blocks: &'a [Option<LocationId>],
    /// Captures are escaped as arguments are. nginx: from the beginning up to the first rule that matches.
    quote: bool,
}

impl Gate for Program {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        let blocks = &request.location().blocks;
        let mut run = Run { request, program: self, blocks, quote: true };
        match run.steps(&self.steps) {
            Ok(Flow::Next | Flow::End) => Verdict::Next,
            Ok(Flow::Answer(response)) => Verdict::Answer(response),
            Err(refusal) => Verdict::Refuse(refusal),
        }
    }
}

/// How a step ends.
enum Flow {
    /// The next step follows.
    Next,
    /// The program is over.
    End,
    Answer(Response),
}

impl Run<'_> {
    fn steps(&mut self, steps: &[Step]) -> Result<Flow, Refusal> {
        for step in steps {
            match self.step(step)? {
                Flow::Next => {}
                end => return Ok(end),
            }
        }
        Ok(Flow::Next)
    }

    fn step(&mut self, step: &Step) -> Result<Flow, Refusal> {
        match step {
            Step::Rewrite(rule) => rule.apply(self),
            Step::Return(answer) => answer.answer(self.request).map(Flow::Answer),
            Step::Break => {
                if self.request.path_changed.replace(false) {
                    self.request.location_valid.set(false);
                }
                Ok(Flow::End)
            }
            Step::Set { variable, value } => {
                let value = self.eval(value);
                self.request.set_value(*variable, Some(value));
                Ok(Flow::Next)
            }
            Step::If { test, block, then } => {
                if !test.holds(self)? {
                    return Ok(Flow::Next);
                }
                if let Some(Some(block)) = self.blocks.get(*block).filter(|_| self.program.switches) {
                    self.request.enter(*block);
                }
                self.steps(then)
            }
        }
    }

    fn eval(&self, template: &Template) -> Bytes {
        eval(template, self.request, self.quote)
    }

    /// What `rewrite_log` asks for.
    fn note(&self, message: std::fmt::Arguments<'_>) {
        if self.program.loud {
            self.request.log(LogLevel::Notice, message);
        }
    }

    /// Matches, and says so in the log.
    fn matches(&self, regex: &Regex, subject: &Bytes) -> Result<bool, Refusal> {
        let matched = regex.matches(subject, self.request.as_ref())?;
        let verb = if matched { "matches" } else { "does not match" };
        self.note(format_args!("\"{}\" {verb} \"{}\"", regex.pattern.text(), Raw(subject)));
        if !matched {
            self.request.clear_captures();
        }
        Ok(matched)
    }
}

/// The text for this request. `quote`: captures of a path that was escaped are escaped again.
fn eval(template: &Template, request: &Request, quote: bool) -> Bytes {
    match quote && request.head.escaped {
        true => template.eval(&Quoted(request)),
        false => template.eval(request),
    }
}

/// A request whose captures are escaped as arguments.
struct Quoted<'a>(&'a Request);

impl Values for Quoted<'_> {
    fn value(&self, id: VarId) -> Value {
        self.0.value(id)
    }

    fn capture(&self, n: usize) -> Value {
        let capture = self.0.capture(n)?;
        Some(uri::escape(Escape::Args, &capture).into_owned().into())
    }
}

/// One `rewrite`.
#[derive(Clone)]
struct Rule {
    regex: Regex,
    /// The replacement up to its first `?`; all of it for a redirect.
    path: Template,
    /// What follows that `?`.
    args: Option<Template>,
    /// The request's own arguments go behind. A replacement that ends in `?` says no.
    keeps_args: bool,
    then: Then,
}

/// What a rule that matched does to the run.
#[derive(Clone, Copy)]
enum Then {
    Next,
    Last,
    Break,
    Redirect {
        status: u16,
        /// The replacement has arguments.
        has_args: bool,
    },
}

impl Rule {
    fn read(words: &Words<'_>) -> Result<Self, Fault> {
        let written = words.arg(1);
        if written.is_empty() {
            return Err(words.fault(1, "empty replacement"));
        }
        let regex = Regex::new(words.arg(0), false, words)?;
        let (replacement, keeps_args) = match written.strip_suffix('?') {
            Some(replacement) => (replacement, false),
            None => (written, true),
        };
        let redirect = |status| Then::Redirect { status, has_args: replacement.contains('?') };
        let then = match (words.len(), words.arg(2)) {
            (2, _) if is_url(replacement) => redirect(302),
            (2, _) => Then::Next,
            (_, "redirect") => redirect(302),
            (_, "permanent") => redirect(301),
            (_, "last" | "break") if is_url(replacement) => redirect(302),
            (_, "last") => Then::Last,
            (_, "break") => Then::Break,
            _ => return Err(words.invalid_parameter(2)),
        };
        let (path, args) = match (replacement.split_once('?'), then) {
            (Some((path, args)), Then::Next | Then::Last | Then::Break) => (path, Some(args)),
            _ => (replacement, None),
        };
        let args = args.map(|args| words.compile(1, args)).transpose()?;
        Ok(Self { regex, path: words.compile(1, path)?, args, keeps_args, then })
    }

    fn apply(&self, run: &mut Run<'_>) -> Result<Flow, Refusal> {
        let request = run.request;
        if !run.matches(&self.regex, &request.path())? {
            return Ok(Flow::Next);
        }
        run.quote = false;
        request.internal.set(true);
        request.target_valid.set(false);
        match self.then {
            Then::Break => {
                request.location_valid.set(false);
                request.path_changed.set(false);
            }
            Then::Next | Then::Last | Then::Redirect { .. } => request.path_changed.set(true),
        }
        let own_args = if self.keeps_args { request.args() } else { Bytes::new() };
        if let Then::Redirect { status, has_args } = self.then {
            let target = eval(&self.path, request, true);
            let target = uri::unescape_redirect(&target);
            let mark: &[u8] = match (own_args.is_empty(), has_args) {
                (true, _) => b"",
                (false, true) => b"&",
                (false, false) => b"?",
            };
            let target = Bytes::from([target.as_ref(), mark, &own_args].concat());
            run.note(format_args!("rewritten redirect: \"{}\"", Raw(&target)));
            request.owe_location(target);
            return Err(Refusal::Status(status));
        }
        let path = eval(&self.path, request, false);
        let args = match &self.args {
            Some(args) => {
                let mut args = BytesMut::from(eval(args, request, true).as_ref());
                if !own_args.is_empty() {
                    args.extend_from_slice(b"&");
                    args.extend_from_slice(&own_args);
                }
                args.freeze()
            }
            None => own_args,
        };
        run.note(format_args!("rewritten data: \"{}\", args: \"{}\"", Raw(&path), Raw(&args)));
        request.set_args(args);
        if path.is_empty() {
            request.log(LogLevel::Error, format_args!("the rewritten URI has a zero length"));
            return Err(Refusal::Status(500));
        }
        request.set_path(path);
        Ok(match self.then {
            Then::Next => Flow::Next,
            Then::Last | Then::Break | Then::Redirect { .. } => Flow::End,
        })
    }
}

/// A replacement that leads elsewhere.
fn is_url(text: &str) -> bool {
    ["http://", "https://", "$scheme"].iter().any(|beginning| text.starts_with(beginning))
}

/// One `return`.
#[derive(Clone)]
struct Return {
    status: u16,
    text: Option<Template>,
}

impl Return {
    fn read(words: &Words<'_>) -> Result<Self, Fault> {
        let first = words.arg(0);
        let invalid = || words.fault(0, format!("invalid return code \"{first}\""));
        let digits = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
        if !digits {
            return match words.len() == 1 && is_url(first) {
                true => Ok(Self { status: 302, text: Some(words.template(0)?) }),
                false => Err(invalid()),
            };
        }
        let status = first.parse().ok().filter(|status| *status <= 999).ok_or_else(invalid)?;
        let text = (words.len() == 2).then(|| words.template(1)).transpose()?;
        Ok(Self { status, text: text.filter(|text| !text.is_empty()) })
    }

    fn answer(&self, request: &Rc<Request>) -> Result<Response, Refusal> {
        if self.status >= 400 && self.text.is_none() {
            return Err(Refusal::Status(self.status));
        }
        request.body.discard();
        request.status.set(self.status); // the text may speak of it
        let text = self.text.as_ref().map(|text| text.eval(request.as_ref())).unwrap_or_default();
        if matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            request.owe_location(text);
            return Err(Refusal::Status(self.status));
        }
        let mut head = Head::boxed(self.status);
        head.content_length = Some(text.len() as u64);
        head.content_type = Some(content_type(request, &request.path()));
        Ok(Response::new(head, Body::memory(text)))
    }
}

/// The condition of an `if`.
#[derive(Clone)]
enum Test {
    /// `$variable`: neither empty nor `0`.
    Variable(VarId),
    /// `$variable = text`, `$variable != text`
    Equals { variable: VarId, text: Template, negated: bool },
    /// `$variable ~ regex` and its kin
    Matches { variable: VarId, regex: Regex, negated: bool },
    /// `-f file` and its kin
    File { path: Template, kind: Kind, negated: bool },
}

/// What `-f`, `-d`, `-e` and `-x` ask.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Directory,
    Exists,
    Executable,
}

impl Test {
    /// Reads `(condition)`, whose brackets may stand alone or stick to its first and last word.
    fn read(words: &Words<'_>) -> Result<Self, Fault> {
        let mut texts: Vec<(usize, &str)> = words.texts().enumerate().collect();
        let invalid = |n: usize| words.fault(n, format!("invalid condition \"{}\"", words.arg(n)));
        let last = texts.len() - 1;
        match texts[0].1.strip_prefix('(') {
            None => return Err(invalid(0)),
            Some("") => drop(texts.remove(0)),
            Some(rest) => texts[0].1 = rest,
        }
        let Some((_, end)) = texts.last_mut() else { return Err(invalid(last)) };
        match end.strip_suffix(')') {
            None => return Err(words.fault(last, format!("invalid condition \"{end}\""))),
            Some("") => drop(texts.pop()),
            Some(rest) => *end = rest,
        }
        let invalid = |(n, text): (usize, &str)| words.fault(n, format!("invalid condition \"{text}\""));
        match texts.as_slice() {
            [] => Err(words.fault(last, "invalid condition \")\"")),
            [only] => match only.1.strip_prefix('$') {
                Some(name) if !name.is_empty() => Ok(Self::Variable(words.cx.names.id(name))),
                _ => Err(invalid(*only)),
            },
            [subject, operator, operand] if subject.1.len() > 1 && subject.1.starts_with('$') => {
                let variable = words.cx.names.id(&subject.1[1..]);
                let (n, operand) = *operand;
                let negated = operator.1.starts_with('!');
                match operator.1 {
                    "=" | "!=" => Ok(Self::Equals { variable, text: words.compile(n, operand)?, negated }),
                    "~" | "!~" => Ok(Self::Matches { variable, regex: Regex::new(operand, false, words)?, negated }),
                    "~*" | "!~*" => Ok(Self::Matches { variable, regex: Regex::new(operand, true, words)?, negated }),
                    other => Err(words.fault(operator.0, format!("unexpected \"{other}\" in condition"))),
                }
            }
            [operator, operand] => {
                let (negated, letter) = match operator.1.strip_prefix('!') {
                    Some(rest) => (true, rest),
                    None => (false, operator.1),
                };
                let kind = match letter {
                    "-f" => Kind::Plain,
                    "-d" => Kind::Directory,
                    "-e" => Kind::Exists,
                    "-x" => Kind::Executable,
                    _ => return Err(invalid(*operator)),
                };
                Ok(Self::File { path: words.compile(operand.0, operand.1)?, kind, negated })
            }
            [first, ..] => Err(invalid(*first)),
        }
    }

    fn holds(&self, run: &Run<'_>) -> Result<bool, Refusal> {
        let value = |variable: &VarId| run.request.value(*variable).unwrap_or_default();
        match self {
            Self::Variable(variable) => {
                let value = value(variable);
                Ok(!value.is_empty() && value.as_ref() != b"0")
            }
            Self::Equals { variable, text, negated } => {
                let value = value(variable);
                Ok((value == run.eval(text)) != *negated)
            }
            Self::Matches { variable, regex, negated } => Ok(run.matches(regex, &value(variable))? != *negated),
            Self::File { path, kind, negated } => Ok(kind.is(&run.eval(path), run.request) != *negated),
        }
    }
}

impl Kind {
    /// Whether the file at `path` is of this kind; one that cannot be asked is of none.
    fn is(self, path: &[u8], request: &Request) -> bool {
        let stat = match request.plan().files.test(request, path) {
            Ok(stat) => stat,
            Err(unopened) => {
                if !unopened.is_missing() {
                    let errno = errno(&unopened.error());
                    let message = format_args!("{} \"{}\" failed {errno}", unopened.call, Raw(path));
                    request.log(LogLevel::Crit, message);
                }
                return false;
            }
        };
        match self {
            Self::Plain => stat.kind == open_file::Kind::File,
            Self::Directory => stat.kind == open_file::Kind::Directory,
            // nginx: a device or a socket is neither file nor directory, and so does not exist
            Self::Exists => stat.kind != open_file::Kind::Other,
            Self::Executable => stat.executable,
        }
    }
}
