//! The local time zone: the offset from UTC at any moment.
//!
//! In: `TZ` and the zone files, read once. Out: seconds east of UTC. A zone that cannot be read is UTC, as in libc.
//! Formats: RFC 9636 (TZif) and the `TZ` string of POSIX, which TZif files end with.

use std::path::PathBuf;
use std::sync::OnceLock;

/// Seconds east of UTC at `unix`, in the zone of the process.
pub fn offset(unix: i64) -> i32 {
    static LOCAL: OnceLock<Zone> = OnceLock::new();
    LOCAL.get_or_init(Zone::local).offset(unix)
}

/// Year, month (1-12) and day of a count of days since 1970-01-01.
pub fn date(days: i64) -> (i64, u32, u32) {
    // Years begin in March here, so that the leap day is the last one; 146097 days are 400 years.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// Days since 1970-01-01 of the first of a month.
fn days(year: i64, month: u32) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let day_of_year = i64::from((153 * month + 2) / 5);
    let year_of_era = year.rem_euclid(400);
    year.div_euclid(400) * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[derive(Clone, Debug, Default)]
struct Zone {
    /// Moments and the offset from then on, in order.
    transitions: Vec<(i64, i32)>,
    /// Before the first transition, and always where there is none and no rule.
    first: i32,
    /// After the last transition.
    rule: Option<Rule>,
}

impl Zone {
    fn local() -> Self {
        let Ok(name) = std::env::var("TZ") else {
            return Self::file("/etc/localtime".into()).unwrap_or_default();
        };
        let name = name.strip_prefix(':').unwrap_or(&name);
        let path = if name.starts_with('/') { PathBuf::new() } else { PathBuf::from("/usr/share/zoneinfo") };
        if !name.is_empty()
            && let Some(zone) = Self::file(path.join(name))
        {
            return zone;
        }
        Self { rule: Rule::parse(name), ..Self::default() }
    }

    fn file(path: PathBuf) -> Option<Self> {
        /// The largest zone files have some 4 KB.
        const MAX_FILE: u64 = 1 << 20;
        if std::fs::metadata(&path).ok()?.len() > MAX_FILE {
            return None;
        }
        Self::parse(&std::fs::read(path).ok()?)
    }

    // RFC 9636, 3: a version-1 block with 32-bit times, then for versions 2 and up the same with 64-bit ones and a
    // footer.
    fn parse(file: &[u8]) -> Option<Self> {
        let (header, block) = Header::parse(file)?;
        if header.version == 0 {
            return Some(header.zone(block, 4)?.0);
        }
        let (header, block) = Header::parse(block.get(header.size(4)?..)?)?;
        let (mut zone, footer) = header.zone(block, 8)?;
        let footer = footer.strip_prefix(b"\n")?;
        let end = footer.iter().position(|&byte| byte == b'\n')?;
        zone.rule = Rule::parse(std::str::from_utf8(&footer[..end]).ok()?);
        Some(zone)
    }

    fn offset(&self, unix: i64) -> i32 {
        let after = self.transitions.partition_point(|&(moment, _)| moment <= unix);
        match (&self.rule, after.checked_sub(1)) {
            (Some(rule), _) if after == self.transitions.len() => rule.offset(unix),
            (_, Some(last)) => self.transitions[last].1,
            (_, None) => self.first,
        }
    }
}

/// The counts in front of a block of a TZif file.
struct Header {
    version: u8,
    is_ut: usize,
    is_standard: usize,
    leaps: usize,
    times: usize,
    types: usize,
    letters: usize,
}

impl Header {
    fn parse(file: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = file.split_at_checked(44)?;
        let header = header.strip_prefix(b"TZif")?;
        let mut counts = header[16..].chunks_exact(4).map(|raw| big_endian(raw) as u32 as usize);
        let mut next = || counts.next();
        let (is_ut, is_standard, leaps, times, types, letters) = (next()?, next()?, next()?, next()?, next()?, next()?);
        Some((Self { version: header[0], is_ut, is_standard, leaps, times, types, letters }, rest))
    }

    fn size(&self, width: usize) -> Option<usize> {
        let times = self.times.checked_mul(width + 1)?;
        let types = self.types.checked_mul(6)?;
        let leaps = self.leaps.checked_mul(width + 4)?;
        [types, self.letters, leaps, self.is_standard, self.is_ut].into_iter().try_fold(times, usize::checked_add)
    }

    fn zone<'a>(&self, block: &'a [u8], width: usize) -> Option<(Zone, &'a [u8])> {
        let (block, footer) = block.split_at_checked(self.size(width)?)?;
        let (times, rest) = block.split_at_checked(self.times * width)?;
        let (indexes, rest) = rest.split_at_checked(self.times)?;
        let (types, _) = rest.split_at_checked(self.types * 6)?;
        let types: Vec<i32> = types.chunks_exact(6).map(|kind| big_endian(&kind[..4]) as i32).collect();
        let moments = times.chunks_exact(width).map(big_endian);
        let offsets = indexes.iter().map(|&index| types.get(usize::from(index)).copied());
        let transitions =
            moments.zip(offsets).map(|(moment, offset)| Some((moment, offset?))).collect::<Option<_>>()?;
        Some((Zone { transitions, first: types.first().copied()?, rule: None }, footer))
    }
}

/// A signed big-endian number of four or eight bytes.
fn big_endian(raw: &[u8]) -> i64 {
    let sign = if raw.first().is_some_and(|&byte| byte >= 0x80) { -1 } else { 0 };
    raw.iter().fold(sign, |number, &byte| number << 8 | i64::from(byte))
}

/// What POSIX says after the name of `TZ`: an offset, perhaps another in summer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rule {
    standard: i32,
    summer: Option<Summer>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Summer {
    offset: i32,
    begin: Change,
    end: Change,
}

/// A day of the year and the local second of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Change {
    day: Day,
    second: i32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Day {
    /// `Jn`: 1-365, 29 February never counted.
    Julian(u16),
    /// `n`: 0-365
    Zero(u16),
    /// `Mm.w.d`: weekday d (0 is Sunday) of week w of month m; week 5 is the last one.
    Month { month: u32, week: u32, weekday: u32 },
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let mut text = Text(text);
        text.name()?;
        // POSIX counts west of Greenwich.
        let standard = -text.time()?;
        if text.0.is_empty() {
            return Some(Self { standard, summer: None });
        }
        text.name()?;
        let offset = if text.0.is_empty() || text.0.starts_with(',') { standard + 3600 } else { -text.time()? };
        // As libc does where no days are named and it has no file of them: those of the United States.
        let mut days = Text(if text.0.is_empty() { ",M3.2.0,M11.1.0" } else { text.0 });
        let (begin, end) = (days.change()?, days.change()?);
        days.0.is_empty().then_some(Self { standard, summer: Some(Summer { offset, begin, end }) })
    }

    fn offset(&self, unix: i64) -> i32 {
        let Some(summer) = self.summer else {
            return self.standard;
        };
        let (year, ..) = date((unix + i64::from(self.standard)).div_euclid(86_400));
        let begin = summer.begin.moment(year) - i64::from(self.standard);
        let end = summer.end.moment(year) - i64::from(summer.offset);
        let is_summer = if begin < end { (begin..end).contains(&unix) } else { !(end..begin).contains(&unix) };
        if is_summer { summer.offset } else { self.standard }
    }
}

impl Change {
    /// The local second at which it happens, since 1970-01-01 of the same clock.
    fn moment(&self, year: i64) -> i64 {
        let first = days(year, 1);
        let day = match self.day {
            Day::Zero(day) => first + i64::from(day),
            Day::Julian(day) => {
                let leap = days(year, 3) - days(year, 2) == 29;
                first + i64::from(day) - 1 + i64::from(leap && day >= 60)
            }
            Day::Month { month, week, weekday } => {
                let first = days(year, month);
                let next = if month == 12 { days(year + 1, 1) } else { days(year, month + 1) };
                // 1970-01-01 was a Thursday.
                let weekday_of_first = (first + 4).rem_euclid(7);
                let day = first + (i64::from(weekday) - weekday_of_first).rem_euclid(7) + 7 * i64::from(week - 1);
                if day < next { day } else { day - 7 }
            }
        };
        day * 86_400 + i64::from(self.second)
    }
}

/// What is left of a POSIX string.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn name(&mut self) -> Option<()> {
        let end = match self.0.strip_prefix('<') {
            Some(quoted) => quoted.find('>')? + 2,
            None => self.0.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(self.0.len()),
        };
        self.0 = &self.0[end..];
        (end >= 3).then_some(())
    }

    /// `[+-]hh[:mm[:ss]]`
    fn time(&mut self) -> Option<i32> {
        let negative = self.skip('-');
        if !negative {
            self.skip('+');
        }
        let mut seconds = self.number(167)? as i32 * 3600;
        if self.skip(':') {
            seconds += self.number(59)? as i32 * 60;
            if self.skip(':') {
                seconds += self.number(59)? as i32;
            }
        }
        Some(if negative { -seconds } else { seconds })
    }

    /// `,day[/time]`
    fn change(&mut self) -> Option<Change> {
        if !self.skip(',') {
            return None;
        }
        let day = if self.skip('J') {
            Day::Julian(self.number(365).filter(|&day| day > 0)? as u16)
        } else if self.skip('M') {
            let month = self.number(12).filter(|&month| month > 0)?;
            let week = self.part(5).filter(|&week| week > 0)?;
            Day::Month { month, week, weekday: self.part(6)? }
        } else {
            Day::Zero(self.number(365)? as u16)
        };
        let second = if self.skip('/') { self.time()? } else { 7200 };
        Some(Change { day, second })
    }

    fn part(&mut self, max: u32) -> Option<u32> {
        if self.skip('.') { self.number(max) } else { None }
    }

    fn number(&mut self, max: u32) -> Option<u32> {
        let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let number = self.0[..end].parse().ok().filter(|&number| number <= max)?;
        self.0 = &self.0[end..];
        Some(number)
    }

    fn skip(&mut self, c: char) -> bool {
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (day, expected) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_016, (2000, 2, 29)),
            (20_514, (2026, 3, 2)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(day), expected);
            assert_eq!(days(expected.0, expected.1) + i64::from(expected.2) - 1, day);
        }
    }

    /// What libc says, by way of `date`.
    fn libc(zone: &str, moments: &[i64]) -> Vec<i32> {
        let list: String = moments.iter().map(|moment| format!("@{moment}\n")).collect();
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), list).expect("a list of moments");
        let output = std::process::Command::new("date")
            .env("TZ", zone)
            .args(["+%z", "-f"])
            .arg(file.path())
            .output()
            .expect("date is part of every system");
        let offset = |line: &str| {
            let (hours, minutes) = line.split_at(3);
            let hours: i32 = hours.parse().expect("hours");
            let minutes: i32 = minutes.parse().expect("minutes");
            (hours * 60 + if line.starts_with('-') { -minutes } else { minutes }) * 60
        };
        String::from_utf8(output.stdout).expect("digits").lines().map(offset).collect()
    }

    #[test]
    fn offsets_are_those_of_libc() {
        // Some hours apart, so that they fall on both sides of the changes of several decades.
        let moments: Vec<i64> = (0..3_000).map(|step| 900_000_000 + step * 900_007).collect();
        let files = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca"];
        let rules = [
            "UTC0",
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "<-03>3",
            "NZST-12NZDT,M9.5.0,M4.1.0/3",
            "AAA-2BBB,J60/0,J300",
            "AAA-2BBB,59/-1,299/26:30",
        ];
        for name in files {
            let zone = Zone::file(format!("/usr/share/zoneinfo/{name}").into()).expect("a zone file");
            let ours: Vec<i32> = moments.iter().map(|&moment| zone.offset(moment)).collect();
            assert_eq!(ours, libc(name, &moments), "{name}");
        }
        for text in rules {
            let zone = Zone { rule: Rule::parse(text), ..Zone::default() };
            let ours: Vec<i32> = moments.iter().map(|&moment| zone.offset(moment)).collect();
            assert_eq!(ours, libc(text, &moments), "{text}");
        }
    }

    #[test]
    fn nonsense_is_utc() {
        for text in ["", "X", "nowhere/at/all", "CET", "CET-1CEST,M13.1.0,M1.1.0", "CET-1CEST,1", "<a", "AB1"] {
            assert_eq!(Rule::parse(text), None, "{text}");
        }
        let file = std::fs::read("/usr/share/zoneinfo/Europe/Berlin").expect("a zone file");
        for length in 0..file.len() {
            assert!(Zone::parse(&file[..length]).is_none(), "{length} bytes");
        }
        let mut huge = file;
        huge[20..44].fill(0xff);
        assert!(Zone::parse(&huge).is_none());
    }
}
