//! `addition`: other answers before and behind an answer's body.
//!
//! In: a response with status 200 and one of `addition_types`. Out: what `add_before_body` leads to, the body, what
//! `add_after_body` leads to. The rule: the head changes where nginx's filter stands, but the bodies meet behind the filters
//! that look into them, for what is added has met its own. nginx: `ngx_http_addition_filter_module`.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::body::{Body, Broken, Next, Source};
use crate::http::plan::{Filter, Later, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::{Field, Head};
use crate::http::subrequest;
use crate::http::types::{HTML, MediaTypes};

/// `ngx_http_addition_filter_module`.
pub struct Addition;

impl Module for Addition {
    const NAME: &'static str = "http_addition";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("add_before_body", EVERYWHERE, Arity::Exactly(1), Conf::add_before_body),
        Directive::location("add_after_body", EVERYWHERE, Arity::Exactly(1), Conf::add_after_body),
        Directive::location("addition_types", EVERYWHERE, Arity::AtLeast(1), Conf::addition_types),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        // nginx: an empty path adds nothing, which lets a location do without what holds around it.
        let before = conf.add_before_body.or_else(Bytes::new);
        let after = conf.add_after_body.or_else(Bytes::new);
        if !before.is_empty() || !after.is_empty() {
            plan.filters.push(Box::new(Announcer { types: conf.addition_types.or_else(|| MediaTypes::of(HTML)) }));
            plan.filters.push(Box::new(Adder { before, after }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    add_before_body: Setting<Bytes>,
    add_after_body: Setting<Bytes>,
    addition_types: Setting<MediaTypes>,
}

impl Conf {
    /// Syntax: `add_before_body uri;`
    fn add_before_body(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.add_before_body.set(text::bytes(words.one()).into())
    }

    /// Syntax: `add_after_body uri;`
    fn add_after_body(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.add_after_body.set(text::bytes(words.one()).into())
    }

    /// Syntax: `addition_types mime-type ...;`  Default: `text/html`
    fn addition_types(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.addition_types.list().add(words, HTML);
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { add_before_body, add_after_body, addition_types } = self;
        add_before_body.inherit(&outer.add_before_body);
        add_after_body.inherit(&outer.add_after_body);
        addition_types.inherit(&outer.addition_types);
        Ok(())
    }
}

/// The answer at hand gets additions.
#[derive(Default)]
struct Announced(Cell<bool>);

/// Decides, and prepares the head.
struct Announcer {
    types: MediaTypes,
}

impl Filter for Announcer {
    fn stage(&self) -> Stage {
        Stage::Addition
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        let adds = head.status == 200 && self.types.take(head);
        if adds {
            head.clear_content_length();
            head.clear_accept_ranges();
            head.weaken_etag();
        }
        request.extension::<Announced>().0.set(adds);
        body
    }
}

/// Puts the bodies together.
struct Adder {
    before: Bytes,
    after: Bytes,
}

impl Filter for Adder {
    fn stage(&self) -> Stage {
        Stage::Postpone
    }

    fn apply(&self, request: &Rc<Request>, _: &mut Head, body: Body) -> Body {
        if request.is_subrequest() || !request.extension::<Announced>().0.get() {
            return body;
        }
        let ask = |path: &Bytes| (!path.is_empty()).then(|| Part::Wanted(path.clone()));
        let parts = [ask(&self.before), Some(Part::Own(body)), ask(&self.after)];
        Body::stream(Sum { request: request.clone(), parts, at: 0 })
    }
}

/// The parts of one body.
struct Sum {
    request: Rc<Request>,
    parts: [Option<Part>; 3],
    at: usize,
}

/// A part that is not there is empty.
enum Part {
    Wanted(Bytes),
    Asked(Rc<Request>, Later<'static, Result<Body, Broken>>),
    Added(Rc<Request>, Body),
    Own(Body),
}

impl Part {
    fn body(&mut self) -> Option<&mut Body> {
        match self {
            Self::Wanted(_) | Self::Asked(..) => None,
            Self::Added(_, body) | Self::Own(body) => Some(body),
        }
    }
}

impl Source for Sum {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        while let Some(slot) = self.parts.get_mut(self.at) {
            let next = match slot {
                None => None,
                Some(Part::Wanted(path)) => {
                    let child = subrequest::new(&self.request, std::mem::take(path), Bytes::new(), "").ok_or(Broken)?;
                    Some(Part::Asked(child.clone(), Box::pin(subrequest::body(child))))
                }
                Some(Part::Asked(child, answer)) => {
                    let body = ready!(answer.as_mut().poll(cx))?;
                    Some(Part::Added(child.clone(), body))
                }
                Some(Part::Own(body)) => match ready!(body.poll_piece(cx))? {
                    Some(piece) => return Poll::Ready(Ok(Some(piece))),
                    None => None,
                },
                // nginx: an addition that breaks off leaves a gap.
                Some(Part::Added(child, body)) => match ready!(body.poll_piece(cx)) {
                    Ok(Some(piece)) => return Poll::Ready(Ok(Some(piece))),
                    Ok(None) | Err(Broken) => {
                        subrequest::finish(child);
                        None
                    }
                },
            };
            match next {
                Some(part) => *slot = Some(part),
                None => self.at += 1,
            }
        }
        Poll::Ready(Ok(None))
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        if let Some(body) = self.parts.get_mut(self.at).and_then(Option::as_mut).and_then(Part::body) {
            body.poll_ahead(cx);
        }
    }

    fn promises_trailers(&self) -> bool {
        matches!(&self.parts[1], Some(Part::Own(body)) if body.promises_trailers())
    }

    fn trailers(&mut self) -> Vec<Field> {
        match &mut self.parts[1] {
            Some(Part::Own(body)) => body.trailers(),
            Some(Part::Wanted(_) | Part::Asked(..) | Part::Added(..)) | None => Vec::new(),
        }
    }
}
