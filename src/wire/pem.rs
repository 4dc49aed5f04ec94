//! PEM (RFC 7468): base64 between two marked lines, with any text around.
//!
//! In: the bytes of a file. Out: its sections in order. Sections with fields in front, as old encrypted keys have them
//! (RFC 1421), keep those.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// `CERTIFICATE`, `RSA PRIVATE KEY`
    pub label: String,
    /// `Proc-Type: 4,ENCRYPTED`
    pub fields: Vec<(String, String)>,
    pub data: Vec<u8>,
}

impl Section {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What a section has that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPem;

/// All sections. Text around them is no error, a section that is cut is.
pub fn sections(file: &[u8]) -> Result<Vec<Section>, BadPem> {
    let mut sections = Vec::new();
    let mut lines = file.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    while let Some(line) = lines.next() {
        let Some(label) = mark(line, b"-----BEGIN ") else { continue };
        let mut section = Section { label, fields: Vec::new(), data: Vec::new() };
        let mut base64 = Vec::new();
        loop {
            let line = lines.next().ok_or(BadPem)?;
            if let Some(end) = mark(line, b"-----END ") {
                if end != section.label {
                    return Err(BadPem);
                }
                break;
            }
            match line.iter().position(|&byte| byte == b':') {
                Some(colon) if base64.is_empty() => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
                    section.fields.push((text(&line[..colon]), text(&line[colon + 1..])));
                }
                Some(_) => return Err(BadPem),
                None => base64.extend_from_slice(line),
            }
        }
        section.data = STANDARD.decode(&base64).map_err(|_| BadPem)?;
        sections.push(section);
    }
    Ok(sections)
}

fn mark(line: &[u8], begins: &[u8]) -> Option<String> {
    let label = line.strip_prefix(begins)?.strip_suffix(b"-----")?;
    std::str::from_utf8(label).ok().map(str::to_owned)
}

/// `data` as a section, in lines of 64.
pub fn encode(label: &str, data: &[u8]) -> String {
    let base64 = STANDARD.encode(data);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_with_text_and_fields() {
        let file = b"subject=x\r\n-----BEGIN A-----\r\nAAEC\r\n-----END A-----\r\n\n-----BEGIN B-----\nProc-Type: 4,ENCRYPTED\n\
            DEK-Info: AES-128-CBC,00\n\nAw==\n-----END B-----\n";
        let found = sections(file).expect("well-formed");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].label.as_str(), found[0].data.as_slice()), ("A", &[0, 1, 2][..]));
        assert_eq!((found[1].field("proc-type"), found[1].data.as_slice()), (Some("4,ENCRYPTED"), &[3][..]));
        assert_eq!(sections(b"no section at all"), Ok(vec![]));
    }

    #[test]
    fn what_is_cut_or_no_base64_is_refused() {
        for bad in [
            "-----BEGIN A-----\nAAEC\n",
            "-----BEGIN A-----\nAAEC\n-----END B-----\n",
            "-----BEGIN A-----\n#\n-----END A-----",
        ] {
            assert_eq!(sections(bad.as_bytes()), Err(BadPem), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let data: Vec<u8> = (0..200).collect();
        let text = encode("X", &data);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(sections(text.as_bytes()).expect("ours")[0].data, data);
    }
}
