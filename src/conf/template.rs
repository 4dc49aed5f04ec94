//! Text with variables in it, compiled at load: `"$scheme://$host$request_uri"`.

use bytes::{BufMut, Bytes, BytesMut};

use super::error::Fault;
use super::vars::{Names, Values, VarId};
use crate::base::text;

/// A compiled text: literals, variables and captures in order.
#[derive(Clone, Debug, Default)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(Bytes),
    Variable(VarId),
    Capture(usize),
}

impl Template {
    /// Compiles `text`; its variables are numbered in `names`.
    pub fn new(source: &str, names: &Names) -> Result<Self, Fault> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = source;
        while let Some(dollar) = rest.find('$') {
            literal.push_str(&rest[..dollar]);
            let after = &rest[dollar + 1..];
            let (part, tail) = Self::variable(after, names)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(text::bytes(&std::mem::take(&mut literal)).into()));
            }
            parts.push(part);
            rest = tail;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(text::bytes(&literal).into()));
        }
        Ok(Self { parts })
    }

    /// A text without variables.
    pub fn literal(bytes: impl Into<Bytes>) -> Self {
        Self { parts: vec![Part::Literal(bytes.into())] }
    }

    /// Reads what follows a `$`: `name`, `{name}` or one digit.
    fn variable<'a>(after: &'a str, names: &Names) -> Result<(Part, &'a str), Fault> {
        if let Some(digit @ b'1'..=b'9') = after.bytes().next() {
            return Ok((Part::Capture(usize::from(digit - b'0')), &after[1..]));
        }
        let (braced, body) = match after.strip_prefix('{') {
            Some(body) => (true, body),
            None => (false, after),
        };
        let end = body.bytes().position(|b| !b.is_ascii_alphanumeric() && b != b'_').unwrap_or(body.len());
        let (name, mut tail) = body.split_at(end);
        if braced {
            tail = tail
                .strip_prefix('}')
                .ok_or_else(|| Fault::new(format!("the closing bracket in \"{name}\" variable is missing")))?;
        }
        match name.as_bytes() {
            [] => Err(Fault::new("invalid variable name")),
            [digit @ b'1'..=b'9'] => Ok((Part::Capture(usize::from(digit - b'0')), tail)),
            _ => Ok((Part::Variable(names.id(name)), tail)),
        }
    }

    /// The text, when it has no variables.
    pub fn constant(&self) -> Option<&Bytes> {
        static EMPTY: Bytes = Bytes::new();
        match self.parts.as_slice() {
            [] => Some(&EMPTY),
            [Part::Literal(bytes)] => Some(bytes),
            _ => None,
        }
    }

    /// The text before the first variable.
    pub fn fixed(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Literal(bytes)) => bytes,
            Some(Part::Variable(_) | Part::Capture(_)) | None => &[],
        }
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The highest `$n` in the text; 0 without any.
    pub fn captures(&self) -> usize {
        let number = |part: &Part| if let Part::Capture(n) = part { *n } else { 0 };
        self.parts.iter().map(number).max().unwrap_or(0)
    }

    /// The text for these values. A variable that is not found adds nothing.
    pub fn eval(&self, values: &(impl Values + ?Sized)) -> Bytes {
        match self.parts.as_slice() {
            [] => Bytes::new(),
            [only] => only.value(values).unwrap_or_default(),
            parts => {
                let mut out = BytesMut::with_capacity(64);
                for part in parts {
                    part.append(values, &mut out);
                }
                out.freeze()
            }
        }
    }

    /// Appends the text to `out`.
    pub fn append(&self, values: &(impl Values + ?Sized), out: &mut impl BufMut) {
        for part in &self.parts {
            part.append(values, out);
        }
    }
}

impl Part {
    fn value(&self, values: &(impl Values + ?Sized)) -> Option<Bytes> {
        match self {
            Self::Literal(bytes) => Some(bytes.clone()),
            Self::Variable(id) => values.value(*id),
            Self::Capture(n) => values.capture(*n),
        }
    }

    fn append(&self, values: &(impl Values + ?Sized), out: &mut impl BufMut) {
        match self {
            Self::Literal(bytes) => out.put_slice(bytes),
            Self::Variable(id) => values.with_value(*id, |value| out.put_slice(value.unwrap_or_default())),
            Self::Capture(n) => out.put_slice(values.capture(*n).as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every variable says its number, every capture `c` and its own.
    struct Numbers;

    impl Values for Numbers {
        fn value(&self, id: VarId) -> Option<Bytes> {
            Some(format!("<{}>", id.index()).into())
        }

        fn capture(&self, n: usize) -> Option<Bytes> {
            Some(format!("c{n}").into())
        }
    }

    #[test]
    fn literals_variables_and_captures() {
        let names = Names::default();
        for (source, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$a", "<0>"),
            ("$a$b", "<0><1>"),
            ("x-${a}y", "x-<0>y"),
            ("/$1/$2", "/c1/c2"),
            ("${1}0", "c10"),
            ("$10", "c10"),
        ] {
            let template = Template::new(source, &names).expect(source);
            assert_eq!(template.eval(&Numbers), expected, "{source}");
        }
    }

    #[test]
    fn faults_in_nginx_words() {
        let names = Names::default();
        for (source, expected) in [
            ("a$", "invalid variable name"),
            ("$ x", "invalid variable name"),
            ("${a", "the closing bracket in \"a\" variable is missing"),
        ] {
            assert_eq!(Template::new(source, &names).expect_err(source).message, expected);
        }
    }
}
