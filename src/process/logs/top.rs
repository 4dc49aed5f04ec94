//! Sums of many lines on one screen: what `weir logs --top FIELD` shows.
//!
//! In: lines that were read. Out: a page of text. The rule: however many lines and values there are, what is kept is
//! bounded; what does not fit is counted together.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::line::Line;

/// Values that are counted each; those that come later are counted as one.
const VALUES: usize = 100_000;
/// Rows that are shown.
const ROWS: usize = 15;
const SLOWEST: usize = 5;
/// Of a value so much is shown.
const WIDTH: usize = 60;

#[derive(Default)]
pub struct Sums {
    field: String,
    lines: u64,
    /// By hundreds.
    statuses: [u64; 6],
    values: HashMap<Vec<u8>, Row>,
    rest: Row,
    /// Answers that a cache had, and those that it was asked for.
    hits: u64,
    asked: u64,
    /// Seconds since the epoch.
    first: Option<f64>,
    last: Option<f64>,
    slowest: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Default)]
struct Row {
    count: u64,
    errors: u64,
    bytes: f64,
    seconds: f64,
    timed: u64,
    longest: f64,
}

impl Sums {
    pub fn of(field: &str) -> Self {
        Self { field: field.to_owned(), ..Self::default() }
    }

    pub fn add(&mut self, line: &Line<'_>) {
        self.lines += 1;
        let status = line.number("status").unwrap_or(0.0);
        let class = (status / 100.0) as usize;
        self.statuses[if class < 6 { class } else { 0 }] += 1;
        if let Some(cached) =
            line.value("upstream_cache_status").filter(|cached| **cached != *b"-" && !cached.is_empty())
        {
            self.asked += 1;
            self.hits += u64::from(*cached == *b"HIT");
        }
        if let Some(time) = time(line) {
            self.first = Some(self.first.map_or(time, |first| first.min(time)));
            self.last = Some(self.last.map_or(time, |last| last.max(time)));
        }
        let seconds = line.number("request_time");
        if let Some(seconds) = seconds {
            self.slow(seconds, line);
        }
        let value = line.value(&self.field).unwrap_or_default().into_owned();
        let room = self.values.len() < VALUES;
        let row = match self.values.get_mut(&value) {
            Some(row) => row,
            None if room => self.values.entry(value).or_default(),
            None => &mut self.rest,
        };
        row.count += 1;
        row.errors += u64::from(class == 5);
        row.bytes += line.number("body_bytes_sent").or_else(|| line.number("bytes_sent")).unwrap_or(0.0);
        if let Some(seconds) = seconds {
            row.seconds += seconds;
            row.timed += 1;
            row.longest = row.longest.max(seconds);
        }
    }

    fn slow(&mut self, seconds: f64, line: &Line<'_>) {
        let place = self.slowest.partition_point(|(other, _)| *other >= seconds);
        if place < SLOWEST {
            let what = line.value("request").or_else(|| line.value("request_uri")).or_else(|| line.value("uri"));
            self.slowest.insert(place, (seconds, shown(&what.unwrap_or_default())));
            self.slowest.truncate(SLOWEST);
        }
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut page = String::new();
        let span = self.first.zip(self.last).map(|(first, last)| last - first);
        let _ = write!(page, "{} requests", self.lines); // a String takes everything, here and below
        if let Some(span) = span.filter(|span| *span > 0.0) {
            let _ = write!(page, " in {span:.0} s, {:.1} requests/s", self.lines as f64 / span);
        }
        if self.asked > 0 {
            let _ = write!(page, ", cache hits {:.1} %", 100.0 * self.hits as f64 / self.asked as f64);
        }
        page.push('\n');
        let classes = self.statuses.iter().enumerate().filter(|(class, count)| *class > 0 && **count > 0);
        let classes: Vec<String> = classes.map(|(class, count)| format!("{class}xx {count}")).collect();
        let _ = writeln!(page, "{}", classes.join(", "));
        if !self.slowest.is_empty() {
            page.push_str("\nslowest\n");
            for (seconds, what) in &self.slowest {
                let _ = writeln!(page, "{seconds:>10.3} s  {what}");
            }
        }
        let _ = writeln!(
            page,
            "\n{:>10} {:>6} {:>6} {:>9} {:>9} {:>10}  {}",
            "requests", "%", "5xx", "mean s", "most s", "bytes", self.field
        );
        let mut rows: Vec<(&[u8], &Row)> = self.values.iter().map(|(value, row)| (value.as_slice(), row)).collect();
        // Those of the same number stay in order from one page to the next.
        rows.sort_by(|(a, one), (b, other)| other.count.cmp(&one.count).then_with(|| a.cmp(b)));
        for (value, row) in rows.iter().take(ROWS) {
            self.row(&mut page, &shown(value), row);
        }
        let more = rows.iter().skip(ROWS).fold(self.rest, |sum, (_, row)| sum.and(row));
        if more.count > 0 {
            self.row(&mut page, "(others)", &more);
        }
        page
    }

    fn row(&self, page: &mut String, value: &str, row: &Row) {
        let share = 100.0 * row.count as f64 / self.lines.max(1) as f64;
        let seconds = |seconds: f64| if row.timed > 0 { format!("{seconds:.3}") } else { "-".to_owned() };
        let mean = seconds(row.seconds / row.timed.max(1) as f64);
        let _ = writeln!(
            page,
            "{:>10} {share:>6.1} {:>6} {mean:>9} {:>9} {:>10}  {value}",
            row.count,
            row.errors,
            seconds(row.longest),
            size(row.bytes),
        );
    }
}

impl Row {
    fn and(self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            errors: self.errors + other.errors,
            bytes: self.bytes + other.bytes,
            seconds: self.seconds + other.seconds,
            timed: self.timed + other.timed,
            longest: self.longest.max(other.longest),
        }
    }
}

/// When a line was written, by whatever its format says of it.
fn time(line: &Line<'_>) -> Option<f64> {
    if let Some(msec) = line.number("msec") {
        return Some(msec);
    }
    let parse = |field: &str, format: &str| {
        let value = line.value(field)?;
        let time = jiff::fmt::strtime::parse(format, &*value).ok()?.to_timestamp().ok()?;
        Some(time.as_second() as f64)
    };
    parse("time_local", "%d/%b/%Y:%H:%M:%S %z").or_else(|| parse("time_iso8601", "%Y-%m-%dT%H:%M:%S%:z"))
}

/// A value for the terminal, which must not be commanded by it.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    match text.chars().count() > WIDTH {
        true => clean.take(WIDTH - 1).chain(['…']).collect(),
        false => clean.collect(),
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        small if small < 10_240.0 => format!("{small:.0}"),
        medium if medium < 10_485_760.0 => format!("{:.0}k", medium / 1024.0),
        large => format!("{:.0}M", large / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::Format;
    use super::*;

    #[test]
    fn a_page_has_the_sums() {
        let format =
            Format::new(&["$time_local|$request|$status|$body_bytes_sent|$request_time|$upstream_cache_status"]);
        let mut sums = Sums::of("uri");
        for (second, uri, status, time, cached) in
            [(0, "/a", 200, "0.100", "HIT"), (5, "/a?x", 502, "2.000", "MISS"), (10, "/b", 304, "0.000", "-")]
        {
            let line = format!("25/Nov/2026:20:08:{second:02} +0000|GET {uri} HTTP/1.1|{status}|10|{time}|{cached}");
            sums.add(&format.read(line.as_bytes()).expect("it is of this format"));
        }
        let page = sums.page();
        let expected = "\
3 requests in 10 s, 0.3 requests/s, cache hits 50.0 %
2xx 1, 3xx 1, 5xx 1

slowest
     2.000 s  GET /a?x HTTP/1.1
     0.100 s  GET /a HTTP/1.1
     0.000 s  GET /b HTTP/1.1

  requests      %    5xx    mean s    most s      bytes  uri
         2   66.7      1     1.050     2.000         20  /a
         1   33.3      0     0.000     0.000         10  /b
";
        assert_eq!(page, expected);
    }

    #[test]
    fn the_terminal_is_not_commanded() {
        assert_eq!(shown(b"\x1b[2Ja"), "?[2Ja");
        assert_eq!(shown(&[b'a'; 100]).chars().count(), WIDTH);
    }
}
