//! `split_clients`: a variable's value by chance, the same for the same text.
//!
//! In: a text with variables. Out: the value of one of the parts, each as often as its percentage says. The rule: the text's
//! hash decides (MurmurHash2), as in nginx, so that both send the same client to the same part.
//! nginx: `ngx_http_split_clients_module`.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::hash::murmur2;
use crate::base::{text, units};
use crate::conf::error::{At, Fault};
use crate::conf::lex::{Node, Statement};
use crate::conf::module::{Arity, Directive, HTTP, Level, Module, Plan, Section};
use crate::conf::template::Template;
use crate::conf::vars::{Defines, Row};
use crate::conf::words::Words;

/// `ngx_http_split_clients_module`, and its twin in `stream`.
pub struct SplitClients<P>(PhantomData<P>);

impl<P: Plan> Module for SplitClients<P>
where
    P::Main: Defines,
{
    const NAME: &'static str = "split_clients";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::main_block("split_clients", HTTP, Arity::Exactly(2), Conf::split_clients)];
    type Plan = P;
    type Main = Conf;
    type Server = ();
    type Location = ();

    fn link_main(level: &Level<'_>, main: &mut P::Main) -> Result<(), Fault> {
        for split in &level.main::<Self>().splits {
            let (source, parts) = (split.source.clone(), split.parts.clone());
            let get = move |asker: &<P::Main as Defines>::Asker| Some(choose(&parts, &source.eval(asker)));
            let row = Row::once(get).changeable();
            main.definitions().define(&split.variable, row).map_err(|fault| fault.or_at(&split.at))?;
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    splits: Vec<Defined>,
}

/// One `split_clients` block.
struct Defined {
    variable: String,
    at: At,
    source: Template,
    parts: Arc<[Part]>,
}

/// Takes what is below `end`; the last one, without, takes the rest.
struct Part {
    end: Option<u32>,
    value: Bytes,
}

impl Conf {
    /// Syntax: `split_clients string $variable { ... }`
    fn split_clients(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let source = words.template(0)?;
        let variable = words.variable(1)?.to_owned();
        let mut shares = Vec::new();
        for node in words.block() {
            match node {
                Node::Fault(fault) => return Err(fault.clone()),
                Node::Statement(statement) => shares.push(share(statement)?),
            }
        }
        self.splits.push(Defined { variable, at: words.at().clone(), source, parts: ends(shares)?.into() });
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        Ok(()) // there is one level only
    }
}

/// A hundredth of a per cent, so many of them; `None` is what is left.
type Share = (Option<u64>, Bytes);

fn share(statement: &Statement) -> Result<Share, Fault> {
    let at = &statement.words[0].at;
    if statement.block.is_some() {
        return Err(Fault::at("unexpected \"{\"", at));
    }
    let [percent, value] = statement.words.as_slice() else {
        return Err(Fault::at("invalid number of the split_clients parameters", at));
    };
    let value = text::bytes(&value.text).into();
    if percent.text == "*" {
        return Ok((None, value));
    }
    let number = percent.text.strip_suffix('%').and_then(|number| units::fixed(number, 2));
    match number.filter(|&number| number != 0) {
        Some(number) => Ok((Some(number), value)),
        None => Err(Fault::at(format!("invalid percent value \"{}\"", percent.text), &percent.at)),
    }
}

const WHOLE: u64 = 10_000;

fn ends(shares: Vec<Share>) -> Result<Vec<Part>, Fault> {
    let (mut sum, mut last) = (0u64, 0u64);
    let mut parts = Vec::with_capacity(shares.len());
    for (share, value) in shares {
        sum = share.map_or(WHOLE, |share| sum.saturating_add(share));
        if sum > WHOLE {
            return Err(Fault::new("percent total is greater than 100%"));
        }
        let end = share.filter(|_| sum < WHOLE).map(|share| {
            last += share * u64::from(u32::MAX) / WHOLE;
            u32::try_from(last).unwrap_or(u32::MAX)
        });
        parts.push(Part { end, value });
    }
    Ok(parts)
}

fn choose(parts: &[Part], text: &[u8]) -> Bytes {
    let hash = murmur2(text);
    let found = parts.iter().find(|part| part.end.is_none_or(|end| hash < end));
    found.map(|part| part.value.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::lex;

    fn load(lines: &str) -> Result<Vec<Part>, Fault> {
        let nodes = lex::file(lines.as_bytes(), &"x.conf".into(), 0);
        let shares: Result<Vec<Share>, Fault> = nodes
            .iter()
            .map(|node| match node {
                Node::Fault(fault) => Err(fault.clone()),
                Node::Statement(statement) => share(statement),
            })
            .collect();
        ends(shares?)
    }

    #[test]
    fn each_part_gets_its_share() {
        let parts = load("50% a; 25.5% b; 0.5% c; * d;").expect("a good block");
        let mut counts = [0; 4];
        for n in 0..100_000 {
            let part = choose(&parts, format!("client-{n}").as_bytes());
            counts[usize::from(part[0] - b'a')] += 1;
        }
        for (count, expected) in counts.into_iter().zip([50_000_i32, 25_500, 500, 24_000]) {
            assert!((count - expected).abs() < 1000, "{counts:?}");
        }
        assert_eq!(choose(&load("0.01% a;").expect("a good block"), b"x"), "");
        let halves = load("50% a; 50% b;").expect("a good block");
        assert!((0..100_u8).all(|n| matches!(&*choose(&halves, &[n]), b"a" | b"b")), "nothing is left over");
    }

    #[test]
    fn faults_in_nginx_s_words() {
        for (lines, expected) in [
            ("0% a;", "invalid percent value \"0%\""),
            ("5 a;", "invalid percent value \"5\""),
            ("0.001% a;", "invalid percent value \"0.001%\""),
            ("x% a;", "invalid percent value \"x%\""),
            ("60% a; 50% b;", "percent total is greater than 100%"),
            ("* a; 1% b;", "percent total is greater than 100%"),
        ] {
            assert_eq!(load(lines).err().expect(lines).message, expected, "{lines}");
        }
    }
}
