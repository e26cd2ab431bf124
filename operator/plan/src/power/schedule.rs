//! The hours at which a domain may draw less, by clocks of any time zone.
//!
//! A clock that is set forward skips minutes, one that is set back shows some twice. A window
//! that begins or ends in such minutes holds for the longer of its readings: watts that are too
//! few for an hour do less harm than watts that are too many.

use std::fmt;

use jiff::civil::{Date, Weekday};
use jiff::{Timestamp, ToSpan};

use super::PowerBudget;
use crate::units::{Moment, Watts};

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // what Mon means is known
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    fn of(date: Date) -> Self {
        match date.weekday() {
            Weekday::Monday => Self::Mon,
            Weekday::Tuesday => Self::Tue,
            Weekday::Wednesday => Self::Wed,
            Weekday::Thursday => Self::Thu,
            Weekday::Friday => Self::Fri,
            Weekday::Saturday => Self::Sat,
            Weekday::Sunday => Self::Sun,
        }
    }
}

/// Why a part of a window was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// Not a time of day.
    #[error("{0:?} is not a time of day from 00:00 to 24:00")]
    Minute(String),
    /// A name that the IANA database does not have.
    #[error("there is no time zone {0:?} in the IANA database (Asia/Riyadh, UTC)")]
    TimeZone(String),
}

/// A time of day in whole minutes, 00:00 to 24:00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MinuteOfDay(u16);

impl MinuteOfDay {
    const DAY: u16 = 24 * 60;

    /// Parses `HH:MM`; `InvalidSchedule::Minute` otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidSchedule> {
        let two = |text: &str| {
            let is_two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_two { text.parse::<u16>().ok() } else { None }
        };
        let parts = text.split_once(':').and_then(|(h, m)| Some((two(h)?, two(m)?)));
        match parts {
            Some((hour, minute)) if minute < 60 && hour * 60 + minute <= Self::DAY => {
                Ok(Self(hour * 60 + minute))
            }
            _ => Err(InvalidSchedule::Minute(text.to_owned())),
        }
    }
}

/// Whose clock: a zone of the IANA database as it was when this program was built.
#[derive(Clone, PartialEq, Eq)]
pub struct TimeZone(jiff::tz::TimeZone);

impl TimeZone {
    /// Finds a zone by its name; `InvalidSchedule::TimeZone` when there is none.
    pub fn parse(name: &str) -> Result<Self, InvalidSchedule> {
        let found = jiff::tz::TimeZoneDatabase::bundled().get(name);
        found.map(Self).map_err(|_| InvalidSchedule::TimeZone(name.to_owned()))
    }

    fn date(&self, at: Moment) -> Option<Date> {
        Some(self.0.to_datetime(timestamp(at)?).date())
    }

    /// The moment at which its clocks show this, the earlier or the later if there are two.
    fn moment(&self, date: Date, minute: MinuteOfDay, is_end: bool) -> Option<Moment> {
        let shown = date.at(0, 0, 0, 0).checked_add(i64::from(minute.0).minutes()).ok()?;
        let shown = self.0.to_ambiguous_timestamp(shown);
        let at = if is_end { shown.later() } else { shown.earlier() };
        at.ok().map(|at| Moment(u64::try_from(at.as_millisecond()).unwrap_or(0)))
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("a zone without a name"))
    }
}

fn timestamp(at: Moment) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()
}

/// A moment as people write it.
pub(super) fn written(at: Moment) -> String {
    timestamp(at).map_or_else(|| at.0.to_string(), |at| at.to_string())
}

/// Hours at which a domain may draw less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The days on which it begins; none: every day.
    pub days: Vec<Day>,
    /// When it begins.
    pub from: MinuteOfDay,
    /// When it ends; not later than `from`: on the next day.
    pub to: MinuteOfDay,
    /// By whose clock.
    pub time_zone: TimeZone,
    /// What the whole domain may draw meanwhile.
    pub watts: Watts,
}

impl Window {
    /// Every time at which it holds between two moments, and perhaps some beside them.
    fn spans(&self, from: Moment, until: Moment) -> Vec<Span> {
        let dates = self.time_zone.date(from).zip(self.time_zone.date(until));
        let Some((first, last)) = dates else { return Vec::new() };
        // One that began on the day before may last; a clock set over midnight moves one more.
        let first = first.checked_sub(2.days()).unwrap_or(Date::MIN);
        let last = last.checked_add(1.days()).unwrap_or(Date::MAX);
        let dates = first.series(1.days()).take_while(|date| *date <= last);
        let holds = |date: &Date| self.days.is_empty() || self.days.contains(&Day::of(*date));
        dates.filter(holds).filter_map(|date| self.span(date)).collect()
    }

    /// When it holds that begins on this day.
    fn span(&self, date: Date) -> Option<Span> {
        let last = if self.to <= self.from { date.tomorrow().ok()? } else { date };
        let begin = self.time_zone.moment(date, self.from, false)?;
        let end = self.time_zone.moment(last, self.to, true)?;
        Some(Span { begin, end, watts: self.watts })
    }
}

/// One time at which a window holds: from `begin` until before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    begin: Moment,
    end: Moment,
    watts: Watts,
}

/// What a domain may draw over a stretch of time.
pub(super) struct Course {
    watts: Watts,
    spans: Vec<Span>,
}

impl Course {
    /// The course of a budget between two moments.
    pub(super) fn of(budget: &PowerBudget, from: Moment, until: Moment) -> Self {
        let spans = budget.schedule.iter().flat_map(|window| window.spans(from, until));
        Self { watts: budget.watts, spans: spans.collect() }
    }

    /// The watts of one moment: the least of what holds.
    pub(super) fn at(&self, at: Moment) -> Watts {
        let holding = self.spans.iter().filter(|span| span.begin <= at && at < span.end);
        holding.map(|span| span.watts).min().map_or(self.watts, |least| least.min(self.watts))
    }

    /// The moments after `after` at which the watts change, in any order.
    pub(super) fn edges(&self, after: Moment) -> impl Iterator<Item = Moment> + '_ {
        let edges = self.spans.iter().flat_map(|span| [span.begin, span.end]);
        edges.filter(move |edge| *edge > after && self.at(*edge) != self.before(*edge))
    }

    /// Whether there are fewer watts from this moment on.
    pub(super) fn falls_at(&self, edge: Moment) -> bool {
        self.at(edge) < self.before(edge)
    }

    fn before(&self, edge: Moment) -> Watts {
        self.at(Moment(edge.0.saturating_sub(1)))
    }
}
