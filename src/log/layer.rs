//! From `tracing` events to error log lines.
//!
//! In: events of target [`OWN`], which [`ErrorLog`] makes with nginx's fields in nginx's order, and what libraries say at
//! warn and error. Out: lines to the log in force: the one that makes the event on this thread, or the main scope's.
//!
//! Fields are appended to the line as they are visited; no value is kept or copied twice. A line by way of an event costs
//! about 0.3 µs more than one formatted directly, of some 2 µs; a level that is off never comes here.

use std::cell::RefCell;
use std::fmt;
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context as Surroundings, Layer, SubscriberExt};

use super::error::{self, Context, ErrorLog, Level};
use super::line::Line;

/// The target of weir's own events.
pub const OWN: &str = "weir";

/// Makes events error log lines, for the whole process. Where somebody set another subscriber before, that one hears the
/// events instead.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(ErrorLines));
    });
}

/// Makes the event of one line that `log` takes. Levels stay nginx's: `tracing` has five, of which this is always the
/// first, and whether a level is on was decided before.
pub(super) fn emit(log: &ErrorLog, level: Level, context: &Context<'_>, errno: i32, message: fmt::Arguments<'_>) {
    install();
    let _restore = Restore(IN_FORCE.replace(Some(log.clone())));
    // nginx: debug lines have no context but the connection.
    let about = if level == Level::Debug { &Context::default() } else { context };
    // The order of the fields is that of the line: the layer writes them as it visits them.
    tracing::event!(
        target: OWN,
        tracing::Level::ERROR,
        level = level as u64,
        conn = context.conn,
        message = message,
        errno = i64::from(errno),
        action = about.action,
        udp = about.udp,
        client = about.client,
        server = about.server,
        login = about.login,
        request = about.request,
        subrequest = about.subrequest,
        upstream = about.upstream,
        host = about.host,
        referrer = about.referrer,
        session = about.session,
    );
}

/// Puts the outer event's log back in force: writing a line may have failed and made another.
struct Restore(Option<ErrorLog>);

impl Drop for Restore {
    fn drop(&mut self) {
        IN_FORCE.set(self.0.take());
    }
}

thread_local! {
    /// The log whose event is under way on this thread.
    static IN_FORCE: RefCell<Option<ErrorLog>> = const { RefCell::new(None) };
}

/// The layer.
pub struct ErrorLines;

impl<S: Subscriber> Layer<S> for ErrorLines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Surroundings<'_, S>) -> bool {
        metadata.is_event() && *metadata.level() <= tracing::Level::WARN
    }

    /// Keeps the debug and trace events of libraries at the price of one compare.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn on_event(&self, event: &Event<'_>, _: Surroundings<'_, S>) {
        if event.metadata().target() == OWN {
            let Some(log) = IN_FORCE.take() else { return };
            let mut own = Own { line: Line::default(), level: Level::Error, udp: false };
            event.record(&mut own);
            own.line.end();
            log.deliver(own.level, &own.line);
            return;
        }
        let level = if *event.metadata().level() == tracing::Level::ERROR { Level::Error } else { Level::Warn };
        let Some(log) = error::main().filter(|log| log.on(level)) else {
            return;
        };
        let mut line = Line::default();
        line.begin(level, 0);
        line.format(format_args!("{}:", event.metadata().target()));
        event.record(&mut Foreign(&mut line));
        line.end();
        log.deliver(level, &line);
    }
}

/// An event of [`emit`].
struct Own {
    line: Line,
    level: Level,
    udp: bool,
}

impl Visit for Own {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "level" => self.level = Level::of(value),
            "conn" => self.line.begin(self.level, value),
            _ => {}
        }
    }

    fn record_i64(&mut self, _: &Field, errno: i64) {
        if errno != 0 {
            self.line.errno(errno as i32);
        }
    }

    fn record_bool(&mut self, _: &Field, udp: bool) {
        self.udp = udp;
    }

    fn record_str(&mut self, _: &Field, action: &str) {
        if !action.is_empty() {
            self.line.push(b" while ");
            self.line.push(action.as_bytes());
        }
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        match field.name() {
            "client" if self.udp => self.line.field("udp client", value),
            name @ ("client" | "server") => self.line.field(name, value),
            "session" => self.line.push(value),
            name => self.line.quoted(name, value),
        }
    }

    fn record_debug(&mut self, _: &Field, message: &dyn fmt::Debug) {
        self.line.format(format_args!("{message:?}"));
    }
}

/// A library's event: its message, then its other fields as `name=value`.
struct Foreign<'a>(&'a mut Line);

impl Visit for Foreign<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.0.format(format_args!(" {value:?}")),
            // What the `log` crate's bridge adds.
            name if name.starts_with("log.") => {}
            name => self.0.format(format_args!(" {name}={value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
