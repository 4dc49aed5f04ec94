//! Lines wait here, per thread and file, for the end of the loop's turn.
//!
//! In: single lines from the requests of one thread. Out: one message per file and turn to the writer.
//!
//! A thread that turns a loop says [`attend`] once and calls [`flush_all`] at the end of each turn. Any other thread
//! hands its lines over at once. A few lines a second are not worth waking the writer for and are written on the spot, if
//! nothing is ahead of them ([`Credit`]). Lines that `access_log`'s `buffer=` holds back have a buffer of their own, which goes
//! when it is full or as old as `flush=` allows.
//!
//! Measured: 0.2 to 0.5 µs of processor time an access line, both threads together, against 1.5 µs for its write(2).
//!
//! Rules: the lines of one file keep their order per thread, prompt and held ones each; a buffer never grows past
//! [`BOUND`] or `buffer=` by more than one line.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sink::{Hold, Sink};
use super::writer::{HEADER, Kind};
use crate::base::clock;

/// Prompt lines of one file that go without waiting for the end of the turn.
const BOUND: usize = 64 * 1024;

/// Emptied buffers that a thread keeps for other files.
const SPARE: usize = 4;

/// This thread calls [`flush_all`] from now on.
pub fn attend() {
    set_mode(Mode::Loop);
}

/// Appends an access line, newline included, to this thread's lines of `sink`.
pub fn push(sink: &Arc<Sink>, line: &[u8]) {
    match sink.held() {
        None => push_prompt(sink, line, false),
        Some(hold) => push_held(sink, hold, line),
    }
}

/// The end of the loop's turn: hands over what is due. Returns how long the oldest held line may still wait, so that an
/// idle loop knows when to call again; `None`: nothing waits for a time.
pub fn flush_all() -> Option<Duration> {
    hand_over_prompt();
    let (holding, timed) = with(|batches| (!batches.holding.is_empty(), batches.timed)).unwrap_or_default();
    if !holding || !timed {
        return None;
    }
    let now = Instant::now();
    hand_over_held(|due| due.is_some_and(|due| due <= now));
    let next = with(|batches| batches.holding.iter().filter_map(|&slot| batches.slots.get(slot)?.due).min()).flatten();
    next.map(|due| due.saturating_duration_since(now))
}

/// Hands over everything, held lines too: before the thread ends, and when files are reopened.
pub fn drain() {
    hand_over_prompt();
    hand_over_held(|_| true);
}

/// What `read` makes of the clock, which stands still between the turns of a loop; elsewhere nobody else winds it.
pub(super) fn in_time<T>(read: impl FnOnce() -> T) -> T {
    if with(|batches| batches.mode) != Some(Mode::Loop) {
        clock::tick();
    }
    read()
}

/// Lines that nothing holds back; with `hurry`, not even the writer's lingering.
pub(super) fn push_prompt(sink: &Arc<Sink>, line: &[u8], hurry: bool) {
    let verdict = with(|batches| match batches.mode {
        Mode::Foreign => Verdict::Send,
        Mode::Writer => Verdict::WriteThrough,
        Mode::Loop => {
            let slot = sink.slot();
            let Batches { slots, dirty, spare, credit, .. } = batches;
            let batch = at(slots, slot);
            if batch.prompt.is_empty() && credit.spend(clock::now(), || sink.is_idle()) {
                return Verdict::WriteThrough;
            }
            if batch.prompt.is_empty() {
                batch.prompt = spare.pop().unwrap_or_else(buffer);
                batch.sink.get_or_insert_with(|| sink.clone());
                dirty.push(slot);
            }
            batch.prompt.extend_from_slice(line);
            batch.hurry |= hurry;
            if batch.prompt.len() < BOUND { Verdict::Kept } else { Verdict::Full }
        }
    });
    match verdict.unwrap_or(Verdict::Send) {
        Verdict::Kept => {}
        Verdict::Full => hand_over_prompt(),
        Verdict::Send => {
            send(sink, Kind::Lines, line);
            if hurry {
                sink.hurry();
            }
        }
        Verdict::WriteThrough => sink.write_through(line),
    }
}

/// Lines of a log with `buffer=`. nginx: when a line does not fit, what is there goes first; a line that is longer than
/// the whole buffer goes alone.
fn push_held(sink: &Arc<Sink>, hold: Hold, line: &[u8]) {
    let kind = hold.gzip.map_or(Kind::Lines, Kind::Gzip);
    let slot = sink.slot();
    let looped = with(|batches| {
        let fits = at(&mut batches.slots, slot).held.len() + line.len() <= hold.size + HEADER;
        (batches.mode == Mode::Loop, fits)
    });
    match looped {
        Some((true, true)) => {}
        Some((true, false)) => hand_over_slot(slot),
        Some((false, _)) | None => return send(sink, kind, line),
    }
    if line.len() > hold.size {
        return send(sink, kind, line);
    }
    with(|batches| {
        let batch = at(&mut batches.slots, slot);
        if batch.held.is_empty() {
            batch.held = buffer();
            batch.held.reserve(hold.size);
            batch.kind = kind;
            batch.due = hold.flush.map(|flush| Instant::now() + flush);
            batch.sink.get_or_insert_with(|| sink.clone());
            batches.timed |= hold.flush.is_some();
            batches.holding.push(slot);
        }
        at(&mut batches.slots, slot).held.extend_from_slice(line);
    });
}

/// The writer thread writes its own lines itself: waiting for the queue it empties would be for ever.
pub(super) fn write_through() {
    set_mode(Mode::Writer);
}

enum Verdict {
    Kept,
    Full,
    Send,
    WriteThrough,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Foreign,
    Loop,
    Writer,
}

/// One thread's lines. Never borrowed while a message is sent: a failing write may log a line of its own.
#[derive(Default)]
struct Batches {
    mode: Mode,
    slots: Vec<Batch>,
    /// Slots with prompt lines.
    dirty: Vec<usize>,
    /// Slots with held lines.
    holding: Vec<usize>,
    /// Some held lines have a time to go.
    timed: bool,
    credit: Credit,
    spare: Vec<Vec<u8>>,
}

/// Lines that may still be written on the spot. Where little is logged they are in their file before the client sees its
/// connection close, as nginx's are, and no thread is woken for them; under load the credit is soon used up.
struct Credit {
    left: u32,
    /// When one was last given.
    given: Instant,
}

impl Default for Credit {
    fn default() -> Self {
        Self { left: Self::MOST, given: clock::now() }
    }
}

impl Credit {
    const MOST: u32 = 16;
    const EVERY: Duration = Duration::from_millis(10);

    /// Takes one if there is one, and if it may be used now.
    fn spend(&mut self, now: Instant, may: impl FnOnce() -> bool) -> bool {
        let due = now.saturating_duration_since(self.given).as_millis() / Self::EVERY.as_millis();
        if due > 0 {
            self.left = self.left.saturating_add(u32::try_from(due).unwrap_or(u32::MAX)).min(Self::MOST);
            self.given = now;
        }
        let spent = self.left > 0 && may();
        self.left -= u32::from(spent);
        spent
    }
}

/// One file's lines. Buffers that hold lines begin with room for the header; empty ones have no memory.
#[derive(Default)]
struct Batch {
    /// Keeps the file alive, and with it the slot, while lines wait.
    sink: Option<Arc<Sink>>,
    prompt: Vec<u8>,
    /// There are error lines among the prompt ones.
    hurry: bool,
    held: Vec<u8>,
    kind: Kind,
    due: Option<Instant>,
}

thread_local! {
    static BATCHES: RefCell<Batches> = RefCell::default();
}

/// `None` while the thread ends.
fn with<T>(f: impl FnOnce(&mut Batches) -> T) -> Option<T> {
    BATCHES.try_with(|batches| f(&mut batches.borrow_mut())).ok()
}

fn set_mode(mode: Mode) {
    with(|batches| batches.mode = mode);
}

fn at(slots: &mut Vec<Batch>, slot: usize) -> &mut Batch {
    if slots.len() <= slot {
        slots.resize_with(slot + 1, Batch::default);
    }
    &mut slots[slot]
}

fn buffer() -> Vec<u8> {
    let mut buffer = Vec::with_capacity(4096);
    buffer.resize(HEADER, 0);
    buffer
}

fn send(sink: &Sink, kind: Kind, lines: &[u8]) {
    let mut message = Vec::with_capacity(HEADER + lines.len());
    message.resize(HEADER, 0);
    message.extend_from_slice(lines);
    sink.send(kind, &mut message);
}

impl Batches {
    fn next_prompt(&mut self) -> Option<(Arc<Sink>, Vec<u8>, bool)> {
        while let Some(slot) = self.dirty.pop() {
            let Some(batch) = self.slots.get_mut(slot) else {
                continue;
            };
            let (lines, hurry) = (std::mem::take(&mut batch.prompt), std::mem::take(&mut batch.hurry));
            if let Some(sink) = batch.sink_to_send() {
                return Some((sink, lines, hurry));
            }
        }
        None
    }

    fn next_held(&mut self, is_due: impl Fn(Option<Instant>) -> bool) -> Option<(Arc<Sink>, Kind, Vec<u8>)> {
        let index =
            self.holding.iter().position(|&slot| self.slots.get(slot).is_some_and(|batch| is_due(batch.due)))?;
        let slot = self.holding.swap_remove(index);
        if self.holding.is_empty() {
            self.timed = false;
        }
        let batch = self.slots.get_mut(slot)?;
        let lines = std::mem::take(&mut batch.held);
        Some((batch.sink_to_send()?, batch.kind, lines))
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE && buffer.capacity() <= 2 * BOUND {
            buffer.truncate(HEADER);
            self.spare.push(buffer);
        }
    }
}

impl Batch {
    /// The file, still held here while lines of the other kind wait.
    fn sink_to_send(&mut self) -> Option<Arc<Sink>> {
        if self.prompt.is_empty() && self.held.is_empty() { self.sink.take() } else { self.sink.clone() }
    }
}

fn hand_over_prompt() {
    while let Some((sink, mut lines, hurry)) = with(Batches::next_prompt).flatten() {
        sink.send(Kind::Lines, &mut lines);
        if hurry {
            sink.hurry();
        }
        with(|batches| batches.keep(lines));
    }
}

fn hand_over_held(is_due: impl Fn(Option<Instant>) -> bool) {
    while let Some((sink, kind, mut lines)) = with(|batches| batches.next_held(&is_due)).flatten() {
        sink.send(kind, &mut lines);
    }
}

fn hand_over_slot(slot: usize) {
    let full = with(|batches| {
        let index = batches.holding.iter().position(|&holding| holding == slot)?;
        batches.holding.swap_remove(index);
        let batch = batches.slots.get_mut(slot)?;
        let lines = std::mem::take(&mut batch.held);
        Some((batch.sink_to_send()?, batch.kind, lines))
    });
    if let Some((sink, kind, mut lines)) = full.flatten() {
        sink.send(kind, &mut lines);
    }
}

impl Drop for Batches {
    /// The thread ends: its lines go, held or not.
    fn drop(&mut self) {
        while let Some((sink, mut lines, _)) = self.next_prompt() {
            sink.send(Kind::Lines, &mut lines);
        }
        while let Some((sink, kind, mut lines)) = self.next_held(|_| true) {
            sink.send(kind, &mut lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::PathBuf;

    use super::*;
    use crate::log::{Hold, Sinks};

    /// Runs `f` as the loop of a thread of its own, with one file that is written without a writer thread.
    fn in_loop(hold: Option<Hold>, f: impl FnOnce(&Arc<Sink>, &(dyn Fn() -> Vec<u8> + Sync)) + Send) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a directory");
        let path: PathBuf = directory.path().join("access.log");
        let sinks = Sinks::new();
        let sink = sinks.file(&path);
        if let Some(hold) = hold {
            assert!(sink.hold(hold));
        }
        sinks.open().expect("a new file opens");
        let written = || std::fs::read(&path).expect("the file is there");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                attend();
                spend_all();
                f(&sink, &written);
            });
            // The end of the scope alone does not wait for what the thread does when its closure has returned.
            thread.join().expect("the assertions of the test hold");
        });
        drop(sink);
        written()
    }

    /// From here on lines wait: the clock, and with it the credit, stands still without a tick.
    fn spend_all() {
        with(|batches| while batches.credit.spend(clock::now(), || true) {});
    }

    #[test]
    fn few_lines_do_not_wait() {
        in_loop(None, |sink, written| {
            with(|batches| batches.credit.left = 2);
            push(sink, b"1\n");
            sink.write(b"2\n");
            assert_eq!(written(), b"1\n2\n");
            push(sink, b"3\n");
            with(|batches| batches.credit.left = 1);
            push(sink, b"4\n"); // behind one that waits
            assert_eq!(written(), b"1\n2\n");
            flush_all();
            assert_eq!(written(), b"1\n2\n3\n4\n");
        });
    }

    fn held(size: usize) -> Option<Hold> {
        Some(Hold { size, flush: None, gzip: None })
    }

    #[test]
    fn lines_wait_for_the_end_of_the_turn() {
        in_loop(None, |sink, written| {
            push(sink, b"1\n");
            sink.write(b"2\n");
            push(sink, b"3\n");
            assert_eq!(written(), b"");
            assert_eq!(flush_all(), None);
            assert_eq!(written(), b"1\n2\n3\n");
            assert_eq!(flush_all(), None);
            push(sink, b"4\n");
            drain();
            assert_eq!(written(), b"1\n2\n3\n4\n");
        });
    }

    #[test]
    fn a_thread_without_a_loop_writes_at_once() {
        in_loop(held(1000), |sink, written| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    push(sink, b"1\n");
                    assert_eq!(written(), b"1\n");
                });
            });
        });
    }

    #[test]
    fn a_full_batch_does_not_wait() {
        in_loop(None, |sink, written| {
            let line = [b'x'; 1000];
            let lines = BOUND / line.len();
            (0..lines).for_each(|_| push(sink, &line));
            assert_eq!(written(), b"");
            push(sink, &line);
            assert_eq!(written().len(), (lines + 1) * line.len());
        });
    }

    #[test]
    fn what_is_left_goes_with_the_thread() {
        let written = in_loop(held(1000), |sink, _| {
            push(sink, b"held\n");
            sink.write(b"prompt\n");
        });
        assert_eq!(written, b"prompt\nheld\n");
    }

    /// nginx: a line that does not fit sends what is there; one that never fits goes alone, behind it.
    #[test]
    fn a_buffer_is_written_when_the_next_line_does_not_fit() {
        in_loop(held(8), |sink, written| {
            push(sink, b"123\n");
            push(sink, b"567\n");
            flush_all();
            assert_eq!(written(), b"", "exactly full is not too full");
            push(sink, b"9\n");
            assert_eq!(written(), b"123\n567\n");
            push(sink, b"longer than all\n");
            assert_eq!(written(), b"123\n567\n9\nlonger than all\n");
            push(sink, b"again\n");
            assert_eq!(written(), b"123\n567\n9\nlonger than all\n");
            drain();
            assert_eq!(written(), b"123\n567\n9\nlonger than all\nagain\n");
        });
    }

    #[test]
    fn error_lines_do_not_wait_in_a_buffer() {
        in_loop(held(1000), |sink, written| {
            push(sink, b"held\n");
            sink.write(b"prompt\n");
            assert_eq!(flush_all(), None);
            assert_eq!(written(), b"prompt\n");
        });
    }

    #[test]
    fn held_lines_go_when_their_time_has_come() {
        let hour = Duration::from_secs(3600);
        in_loop(Some(Hold { size: 1000, flush: Some(hour), gzip: None }), |sink, written| {
            push(sink, b"1\n");
            let left = flush_all().expect("there is something to wait for");
            assert!(left <= hour && left > hour - Duration::from_secs(60));
            assert_eq!(written(), b"");
        });
        in_loop(Some(Hold { size: 1000, flush: Some(Duration::ZERO), gzip: None }), |sink, written| {
            push(sink, b"1\n");
            assert_eq!(flush_all(), None);
            assert_eq!(written(), b"1\n");
        });
    }

    #[test]
    fn gzip_makes_a_member_of_each_buffer() {
        let written = in_loop(Some(Hold { size: 8, flush: None, gzip: Some(9) }), |sink, _| {
            push(sink, b"123\n");
            push(sink, b"567\n");
            push(sink, b"9\n");
        });
        // As zlib begins a member of level 9 on Unix, and so nginx.
        let header = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03";
        assert!(written.starts_with(header));
        assert_eq!(memchr::memmem::find_iter(&written, header).count(), 2);
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(&*written).read_to_string(&mut text).expect("whole members");
        assert_eq!(text, "123\n567\n9\n");
    }

    #[test]
    fn credit_is_spent_by_many_and_comes_back_with_time() {
        let start = Instant::now();
        let mut credit = Credit { left: Credit::MOST, given: start };
        for _ in 0..Credit::MOST {
            assert!(credit.spend(start, || true));
        }
        assert!(!credit.spend(start, || true) && !credit.spend(start + Credit::EVERY / 2, || true));
        assert!(
            !credit.spend(start + Credit::EVERY, || false)
                && credit.spend(start + Credit::EVERY, || true)
                && !credit.spend(start + Credit::EVERY, || true)
        );
        let later = start + Duration::from_secs(60);
        assert_eq!((0..100).filter(|_| credit.spend(later, || true)).count(), Credit::MOST as usize);
    }

    /// Run alone: the figure is the processor time of the whole process, writer thread included.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_an_access_line() {
        use nix::sys::resource::{UsageWho, getrusage};
        let cpu = || {
            let usage = getrusage(UsageWho::RUSAGE_SELF).expect("own usage");
            let (user, system) = (usage.user_time(), usage.system_time());
            Duration::from_micros(
                (user.tv_sec() * 1_000_000 + user.tv_usec() + system.tv_sec() * 1_000_000 + system.tv_usec()) as u64,
            )
        };
        let directory = tempfile::tempdir().expect("a directory");
        let sinks = Sinks::new();
        let sink = sinks.file(&directory.path().join("access.log"));
        sinks.open().expect("opens");
        let line = [b'a'; 200];
        let lines = 100_000;
        let measure = |name: &str, turn: &mut dyn FnMut(u32), per_turn: u32| {
            let (then, before) = (Instant::now(), cpu());
            for _ in 0..lines / per_turn {
                turn(per_turn);
            }
            let elapsed = then.elapsed() / lines;
            sinks.flush(Duration::from_secs(9));
            println!(
                "{name}, {per_turn} lines a turn: {elapsed:?} elapsed, {:?} of processor a line",
                (cpu() - before) / lines
            );
        };
        measure("write(2)", &mut |n| (0..n).for_each(|_| sink.write_through(&line)), 1);
        sinks.start_writers();
        attend();
        for per_turn in [1, 4, 16, 64] {
            measure(
                "batch",
                &mut |n| {
                    (0..n).for_each(|_| push(&sink, &line));
                    flush_all();
                },
                per_turn,
            );
        }
        assert!(sinks.stop_writers(Duration::from_secs(9)));
    }
}
