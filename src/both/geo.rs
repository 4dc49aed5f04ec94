//! `geo`: a variable's value by an address.
//!
//! In: the client's address, or one in a variable. Out: the value of the narrowest network (with `ranges`, of the range)
//! that it is in, else `default`, else nothing. The rule: a block becomes one sorted list of intervals that do not
//! overlap, so a lookup is a binary search however long the block is. nginx: `ngx_http_geo_module`.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;

use super::Visitor;
use crate::base::addr::{self, Address};
use crate::base::hash::QuickMap;
use crate::base::text;
use crate::conf::error::{At, Fault};
use crate::conf::lex::{Node, Statement, Word};
use crate::conf::module::{Arity, Directive, HTTP, Level, Module, Plan, Section};
use crate::conf::vars::{Defines, Row, VarId};
use crate::conf::words::{Context, Words};
use crate::wire::forwarded::{self, Trusted};

/// `ngx_http_geo_module`, and its twin in `stream`.
pub struct Geo<P>(PhantomData<P>);

impl<P: Plan> Module for Geo<P>
where
    P::Main: Defines,
    <P::Main as Defines>::Asker: Visitor,
{
    const NAME: &'static str = "geo";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::main_block("geo", HTTP, Arity::Between(1, 2), Conf::geo)];
    type Plan = P;
    type Main = Conf;
    type Server = ();
    type Location = ();

    fn link_main(level: &Level<'_>, main: &mut P::Main) -> Result<(), Fault> {
        for geo in &level.main::<Self>().geos {
            let finder = geo.finder.clone();
            let get = move |asker: &<P::Main as Defines>::Asker| Some(finder.value(asker));
            let row = if geo.volatile { Row::each(get) } else { Row::once(get) };
            main.definitions().define(&geo.variable, row.changeable()).map_err(|fault| fault.or_at(&geo.at))?;
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    geos: Vec<Defined>,
}

/// One `geo` block.
struct Defined {
    variable: String,
    at: At,
    finder: Arc<Finder>,
    volatile: bool,
}

impl Conf {
    /// Syntax: `geo [$address] $variable { ... }`
    fn geo(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let last = words.texts().count() - 1;
        let source = match last {
            0 => None,
            _ => Some(words.cx.names.id(words.variable(0)?)),
        };
        let variable = words.variable(last)?.to_owned();
        let mut reader = Reader::default();
        for node in words.block() {
            match node {
                Node::Fault(fault) => return Err(fault.clone()),
                Node::Statement(statement) => reader.line(statement, words.cx)?,
            }
        }
        let volatile = reader.volatile;
        let finder = Arc::new(reader.finish(source));
        self.geos.push(Defined { variable, at: words.at().clone(), finder, volatile });
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        Ok(()) // there is one level only
    }
}

/// A block being read.
#[derive(Default)]
struct Reader {
    volatile: bool,
    ranges: bool,
    proxies: Option<Trusted>,
    proxy_recursive: bool,
    values: Vec<Bytes>,
    /// Where a value that was written before is: tables have many lines and few values.
    known: QuickMap<String, u32>,
    nets: QuickMap<IpNet, u32>,
    /// A line about a network was read: `ranges` comes too late.
    has_nets: bool,
    /// By the upper half of their addresses, sorted and apart from each other: nginx judges overlaps half by half.
    blocks: BTreeMap<u16, Vec<Span>>,
    default: Option<u32>,
}

/// Some addresses that share their upper half.
#[derive(Clone, Copy)]
struct Span {
    start: u16,
    end: u16,
    value: u32,
}

impl Reader {
    fn line(&mut self, statement: &Statement, cx: &Context) -> Result<(), Fault> {
        let at = &statement.words[0].at;
        if statement.block.is_some() {
            return Err(Fault::at("unexpected \"{\"", at));
        }
        match statement.words.as_slice() {
            [only] if only.text == "ranges" => {
                if self.has_nets {
                    let message = "the \"ranges\" directive must be the first directive inside \"geo\" block";
                    return Err(Fault::at(message, at));
                }
                self.ranges = true;
                Ok(())
            }
            [only] if only.text == "proxy_recursive" => {
                self.proxy_recursive = true;
                Ok(())
            }
            [only] if only.text == "volatile" => {
                self.volatile = true;
                Ok(())
            }
            [name, net] if name.text == "proxy" => {
                let net = network(net, cx)?;
                self.proxies.get_or_insert_default().nets.push(net);
                Ok(())
            }
            [key, value] if self.ranges => self.range(key, value, cx),
            [key, value] => self.net(key, value, cx),
            _ => Err(Fault::at("invalid number of the geo parameters", at)),
        }
    }

    fn net(&mut self, key: &Word, value: &Word, cx: &Context) -> Result<(), Fault> {
        self.has_nets = true;
        match key.text.as_str() {
            "default" => {
                let place = self.remember(value)?;
                for net in EVERY_NET {
                    self.add_net(net, place, key, cx);
                }
            }
            "delete" => {
                let net = network(value, cx)?;
                if self.nets.remove(&net).is_none() {
                    cx.warn(Fault::at(format!("no network \"{}\" to delete", value.text), &value.at));
                }
            }
            _ => {
                let net = network(key, cx)?;
                let place = self.remember(value)?;
                self.add_net(net, place, key, cx);
            }
        }
        Ok(())
    }

    fn add_net(&mut self, net: IpNet, value: u32, key: &Word, cx: &Context) {
        if let Some(old) = self.nets.insert(net, value) {
            let (old, new) = (self.shown(old), self.shown(value));
            let message = format!("duplicate network \"{}\", value: \"{new}\", old value: \"{old}\"", key.text);
            cx.warn(Fault::at(message, &key.at));
        }
    }

    fn range(&mut self, key: &Word, value: &Word, cx: &Context) -> Result<(), Fault> {
        if key.text == "default" {
            let place = self.remember(value)?;
            if let Some(old) = self.default.replace(place) {
                let (old, new) = (self.shown(old), &value.text);
                let message = format!("duplicate default geo range value: \"{new}\", old value: \"{old}\"");
                cx.warn(Fault::at(message, &key.at));
            }
            return Ok(());
        }
        let delete = key.text == "delete";
        let net = if delete { value } else { key };
        let invalid = || Fault::at(format!("invalid range \"{}\"", net.text), &net.at);
        let (start, end) = net.text.split_once('-').ok_or_else(invalid)?;
        let address = |text: &str| addr::ipv4(text).map(u32::from).ok_or_else(invalid);
        let (start, end) = (address(start)?, address(end)?);
        if start > end {
            return Err(invalid());
        }
        if delete {
            let mut missing = false;
            for (high, start, end) in halves(start, end) {
                let spans = self.blocks.entry(high).or_default();
                let same = spans.iter().position(|span| span.start == start && span.end == end);
                match same {
                    Some(place) => drop(spans.remove(place)),
                    None => missing = true,
                }
            }
            if missing {
                cx.warn(Fault::at(format!("no address range \"{}\" to delete", net.text), &net.at));
            }
            return Ok(());
        }
        let place = self.remember(value)?;
        for (high, start, end) in halves(start, end) {
            self.add_span(high, Span { start, end, value: place }, net, cx)?;
        }
        Ok(())
    }

    /// Puts a span between the others, or into one that holds it whole.
    fn add_span(&mut self, high: u16, new: Span, net: &Word, cx: &Context) -> Result<(), Fault> {
        let spans = self.blocks.entry(high).or_default();
        let place = spans.partition_point(|span| span.end < new.start);
        let Some(old) = spans.get(place).copied().filter(|old| old.start <= new.end) else {
            spans.insert(place, new);
            return Ok(());
        };
        if old.start == new.start && old.end == new.end {
            spans[place] = new;
            let (old, value) = (self.shown(old.value), self.shown(new.value));
            let message = format!("duplicate range \"{}\", value: \"{value}\", old value: \"{old}\"", net.text);
            cx.warn(Fault::at(message, &net.at));
            return Ok(());
        }
        if new.start < old.start || new.end > old.end {
            // nginx looks from the end.
            let last = spans.partition_point(|span| span.start <= new.end).saturating_sub(1);
            let Span { start, end, .. } = spans.get(last).copied().unwrap_or(old);
            let shown = |low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
            let message = format!("range \"{}\" overlaps \"{}-{}\"", net.text, shown(start), shown(end));
            return Err(Fault::at(message, &net.at));
        }
        let before = (old.start < new.start).then(|| Span { end: new.start - 1, ..old });
        let behind = (new.end < old.end).then(|| Span { start: new.end + 1, ..old });
        spans.splice(place..=place, before.into_iter().chain([new]).chain(behind));
        Ok(())
    }

    fn remember(&mut self, value: &Word) -> Result<u32, Fault> {
        if let Some(&place) = self.known.get(&value.text) {
            return Ok(place);
        }
        let place = u32::try_from(self.values.len()).map_err(|_| Fault::at("too many geo values", &value.at))?;
        self.values.push(text::bytes(&value.text).into());
        self.known.insert(value.text.clone(), place);
        Ok(place)
    }

    fn shown(&self, value: u32) -> String {
        text::decode(&self.values[value as usize])
    }

    fn finish(self, source: Option<VarId>) -> Finder {
        let Self { values, nets, blocks, default, ranges, proxies, proxy_recursive, .. } = self;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, value) in nets {
            match net {
                IpNet::V4(net) => {
                    v4.push((u128::from(u32::from(net.network())), u128::from(u32::from(net.broadcast())), value))
                }
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()), value)),
            }
        }
        for (high, spans) in blocks {
            let address = |low: u16| u128::from(u32::from(high) << 16 | u32::from(low));
            v4.extend(spans.iter().map(|span| (address(span.start), address(span.end), span.value)));
        }
        Finder { source, proxies, proxy_recursive, ranges, v4: flatten(v4), v6: flatten(v6), values, default }
    }
}

const EVERY_NET: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
];

/// A network as a line names it.
fn network(word: &Word, cx: &Context) -> Result<IpNet, Fault> {
    // nginx reads this one as no address anywhere else.
    if word.text == "255.255.255.255" {
        return Ok(IpNet::from(IpAddr::V4(Ipv4Addr::BROADCAST)));
    }
    let invalid = || Fault::at(format!("invalid network \"{}\"", word.text), &word.at);
    let cidr = addr::cidr(&word.text).ok_or_else(invalid)?;
    if cidr.meaningless_bits {
        cx.warn(Fault::at(format!("low address bits of {} are meaningless", word.text), &word.at));
    }
    Ok(cidr.net)
}

/// A range cut where the upper half of its addresses changes.
fn halves(start: u32, end: u32) -> impl Iterator<Item = (u16, u16, u16)> {
    let half = |address: u32| ((address >> 16) as u16, (address & 0xffff) as u16);
    let ((first, low), (last, high)) = (half(start), half(end));
    (first..=last).map(move |n| (n, if n == first { low } else { 0 }, if n == last { high } else { u16::MAX }))
}

/// From intervals of which one may hold others, but none overlaps another's border, to such that are apart: the narrowest
/// wins.
fn flatten(mut nested: Vec<(u128, u128, u32)>) -> Vec<Interval> {
    nested.sort_unstable_by_key(|&(start, end, _)| (start, std::cmp::Reverse(end)));
    let mut flat: Vec<Interval> = Vec::with_capacity(nested.len());
    let mut around: Vec<(u128, u32)> = Vec::new();
    // Where what `around` says has not been written yet.
    let mut from = 0;
    let mut write = |start: u128, end: u128, value: u32| match flat.last_mut() {
        Some(last) if last.value == value && last.end.checked_add(1) == Some(start) => last.end = end,
        _ => flat.push(Interval { start, end, value }),
    };
    for (start, end, value) in nested {
        while let Some(&(outer, said)) = around.last().filter(|(outer, _)| *outer < start) {
            if from <= outer {
                write(from, outer, said);
                from = outer + 1; // below `start`, so there is a next one
            }
            around.pop();
        }
        if let Some(&(_, said)) = around.last()
            && from < start
        {
            write(from, start - 1, said);
        }
        from = start;
        around.push((end, value));
    }
    while let Some((outer, said)) = around.pop() {
        if from <= outer {
            write(from, outer, said);
            match outer.checked_add(1) {
                Some(next) => from = next,
                None => break, // there is no address behind
            }
        }
    }
    flat.shrink_to_fit();
    flat
}

/// Addresses with one value.
#[derive(Debug, PartialEq)]
struct Interval {
    start: u128,
    end: u128,
    value: u32,
}

/// A finished `geo`.
struct Finder {
    source: Option<VarId>,
    proxies: Option<Trusted>,
    proxy_recursive: bool,
    /// Ranges are of IPv4 alone.
    ranges: bool,
    v4: Vec<Interval>,
    v6: Vec<Interval>,
    values: Vec<Bytes>,
    default: Option<u32>,
}

impl Finder {
    fn value(&self, asker: &impl Visitor) -> Bytes {
        // nginx: who has no address is looked for under this one.
        let ip = self.address(asker).unwrap_or(IpAddr::V4(Ipv4Addr::BROADCAST));
        let ip = match forwarded::unmapped(ip) {
            IpAddr::V6(_) if self.ranges => IpAddr::V4(Ipv4Addr::BROADCAST),
            ip => ip,
        };
        let (intervals, address) = match ip {
            IpAddr::V4(v4) => (&self.v4, u128::from(u32::from(v4))),
            IpAddr::V6(v6) => (&self.v6, u128::from(v6)),
        };
        let place = intervals.partition_point(|interval| interval.end < address);
        let found = intervals.get(place).filter(|interval| interval.start <= address);
        let value = found.map(|interval| interval.value).or(self.default);
        value.and_then(|value| self.values.get(value as usize)).cloned().unwrap_or_default()
    }

    fn address(&self, asker: &impl Visitor) -> Option<IpAddr> {
        let said = match self.source {
            None => asker.peer().clone(),
            Some(source) => {
                let value = asker.value(source)?;
                let ip = addr::ip(std::str::from_utf8(&value).ok()?)?;
                Address::Inet((ip, 0).into())
            }
        };
        let behind = self.proxies.as_ref().and_then(|proxies| {
            let lines = asker.forwarded_for();
            forwarded::client(&said, lines.iter().map(|line| line.as_ref()), proxies, self.proxy_recursive)
        });
        match behind.unwrap_or(said) {
            Address::Inet(inet) => Some(inet.ip()),
            Address::Unix(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::base::regex::Failed;
    use crate::conf::lex;
    use crate::conf::pattern::{Matched, Matching};
    use crate::conf::vars::{Value, Values};
    use crate::net::accept::Peer;

    /// Whose only variable is an address, and who may have come through proxies.
    #[derive(Default)]
    struct Someone {
        peer: Option<Peer>,
        x: RefCell<&'static str>,
        forwarded: Vec<Bytes>,
    }

    impl Values for Someone {
        fn value(&self, _: VarId) -> Value {
            Some(Bytes::from_static(self.x.borrow().as_bytes()))
        }

        fn capture(&self, _: usize) -> Value {
            None
        }
    }

    impl Matching for Someone {
        fn set_value(&self, _: VarId, _: Value) {}

        fn set_captures(&self, _: Matched) {}

        fn log_failed(&self, failed: &Failed) {
            panic!("{failed}");
        }
    }

    impl Visitor for Someone {
        fn peer(&self) -> &Peer {
            self.peer.as_ref().expect("they have a variable")
        }

        fn forwarded_for(&self) -> Vec<Bytes> {
            self.forwarded.clone()
        }
    }

    /// What a block answers for the address in a variable; with its warnings.
    fn load(lines: &str) -> Result<(Finder, Vec<String>), Fault> {
        let cx = Context::new("/", "/");
        let mut reader = Reader::default();
        for node in lex::file(lines.as_bytes(), &"x.conf".into(), 0) {
            match node {
                Node::Fault(fault) => return Err(fault),
                Node::Statement(statement) => reader.line(&statement, &cx)?,
            }
        }
        let warnings = cx.take_warnings().into_iter().map(|warning| warning.message).collect();
        Ok((reader.finish(Some(cx.names.id("x"))), warnings))
    }

    fn ask(finder: &Finder, someone: &Someone, x: &'static str) -> String {
        someone.x.replace(x);
        text::decode(&finder.value(someone))
    }

    #[test]
    fn the_narrowest_network_decides() {
        let block = "default other; 10.0.0.0/8 ten; 10.1.0.0/16 sixteen; 10.1.2.3 one; 10.1.2.3/32 again; ::/0 six;\
                     2001:db8::/32 doc; 255.255.255.255 none; 192.0.2.1/24 low; delete 10.9.0.0/16; 10.1.4.0/22 two;\
                     172.16.0.0/12 gone; delete 172.16.0.0/12; 0.0.0.0/1 half;";
        let (finder, warnings) = load(block).expect("a good block");
        let someone = Someone::default();
        for (x, expected) in [
            ("10.2.0.0", "ten"),
            ("10.255.255.255", "ten"),
            ("11.0.0.0", "half"),
            ("10.1.2.2", "sixteen"),
            ("10.1.2.3", "again"),
            ("10.1.2.4", "sixteen"),
            ("10.1.3.255", "sixteen"),
            ("10.1.4.0", "two"),
            ("10.1.7.255", "two"),
            ("10.1.8.0", "sixteen"),
            ("::ffff:10.1.2.3", "again"),
            ("192.0.2.77", "low"),
            ("172.16.0.1", "other"),
            ("2001:db8::1", "doc"),
            ("::1", "six"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "six"),
            ("no address", "none"),
            ("127.255.255.255", "half"),
            ("128.0.0.0", "other"),
        ] {
            assert_eq!(ask(&finder, &someone, x), expected, "{x}");
        }
        assert_eq!(
            warnings,
            [
                "duplicate network \"10.1.2.3/32\", value: \"again\", old value: \"one\"",
                "duplicate network \"::/0\", value: \"six\", old value: \"other\"",
                "low address bits of 192.0.2.1/24 are meaningless",
                "no network \"10.9.0.0/16\" to delete",
            ]
        );
        assert_eq!(ask(&load("").expect("nothing").0, &someone, "10.0.0.1"), "");
    }

    #[test]
    fn ranges_hold_each_other_or_stay_apart() {
        let block = "ranges; default other; 10.0.0.0-10.3.255.255 wide; 10.1.0.0-10.1.0.255 in; 10.2.0.0-10.2.255.255 two;\
                     10.3.255.0-10.3.255.255 tail; 10.0.0.5-10.0.0.5 five; 192.0.2.1-192.0.2.9 gone;\
                     delete 192.0.2.1-192.0.2.9; delete 192.0.2.1-192.0.2.9;";
        let (finder, warnings) = load(block).expect("a good block");
        let someone = Someone::default();
        for (x, expected) in [
            ("9.255.255.255", "other"),
            ("10.0.0.0", "wide"),
            ("10.0.0.5", "five"),
            ("10.0.0.6", "wide"),
            ("10.1.0.0", "in"),
            ("10.1.0.255", "in"),
            ("10.1.1.0", "wide"),
            ("10.2.1.1", "two"),
            ("10.3.254.255", "wide"),
            ("10.3.255.255", "tail"),
            ("10.4.0.0", "other"),
            ("192.0.2.1", "other"),
            ("2001:db8::1", "other"),
        ] {
            assert_eq!(ask(&finder, &someone, x), expected, "{x}");
        }
        assert_eq!(
            warnings,
            [
                "duplicate range \"10.2.0.0-10.2.255.255\", value: \"two\", old value: \"wide\"",
                "no address range \"192.0.2.1-192.0.2.9\" to delete",
            ]
        );
    }

    #[test]
    fn proxies_name_their_clients() {
        let (finder, _) = load("proxy 127.0.0.1; default d; 192.0.2.1 client; 127.0.0.1 proxy;").expect("a good block");
        let forwarded = vec![Bytes::from_static(b"198.51.100.1, 192.0.2.1")];
        let someone = Someone { forwarded, ..Someone::default() };
        assert_eq!(ask(&finder, &someone, "127.0.0.1"), "client");
        assert_eq!(ask(&finder, &someone, "192.0.2.9"), "d");
        let (finder, _) = load("proxy 0.0.0.0/0; proxy_recursive; default d; 198.51.100.1 far;").expect("a good block");
        assert_eq!(ask(&finder, &someone, "127.0.0.1"), "far");
    }

    #[test]
    fn a_hundred_thousand_networks() {
        let address = |n: u32| Ipv4Addr::from(n << 12);
        let lines: String = (0..100_000).map(|n| format!("{}/20 value-{};\n", address(n), n % 7)).collect();
        let (finder, _) = load(&lines).expect("a good block");
        assert_eq!(finder.v4.len(), 100_000);
        let someone = Someone::default();
        assert_eq!(ask(&finder, &someone, "0.0.31.255"), "value-1");
        assert_eq!(ask(&finder, &someone, "255.0.0.0"), "");
    }

    #[test]
    fn faults_in_nginx_s_words() {
        for (lines, expected) in [
            ("a;", "invalid number of the geo parameters"),
            ("a b c;", "invalid number of the geo parameters"),
            ("a b;", "invalid network \"a\""),
            ("delete b;", "invalid network \"b\""),
            ("proxy b;", "invalid network \"b\""),
            ("10.0.0.0/8 { }", "unexpected \"{\""),
            ("::1 a; ranges;", "the \"ranges\" directive must be the first directive inside \"geo\" block"),
            ("ranges; 10.0.0.1 a;", "invalid range \"10.0.0.1\""),
            ("ranges; 10.0.0.2-10.0.0.1 a;", "invalid range \"10.0.0.2-10.0.0.1\""),
            ("ranges; 10.0.0.1-x a;", "invalid range \"10.0.0.1-x\""),
            (
                "ranges; 10.0.0.1-10.0.0.9 a; 10.0.0.5-10.0.0.19 b;",
                "range \"10.0.0.5-10.0.0.19\" overlaps \"10.0.0.1-10.0.0.9\"",
            ),
            (
                "ranges; 10.0.0.1-10.0.0.2 a; 10.0.0.4-10.0.0.5 a; 10.0.0.0-10.0.0.19 b;",
                "range \"10.0.0.0-10.0.0.19\" overlaps \"10.0.0.4-10.0.0.5\"",
            ),
        ] {
            let fault = load(lines).err().expect(lines);
            assert_eq!(fault.message, expected, "{lines}");
        }
    }
}
