//! A process' monotonic clock: it never goes back, but that is all that can be said of it.

use crate::mix::Micros;

const MILLION: Micros = 1_000_000;

/// What a process takes for time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    // It showed `shown` at `since`, and goes `rate` millionths as fast as the world's.
    since: Micros,
    shown: Micros,
    rate: Micros,
    stopped: bool,
}

impl Clock {
    /// A clock that shows this now.
    pub fn showing(shown: Micros, now: Micros) -> Self {
        Self { since: now, shown, rate: MILLION, stopped: false }
    }

    /// What it shows.
    pub fn reading(&self, now: Micros) -> Micros {
        if self.stopped {
            return self.shown;
        }
        self.shown + (now - self.since) * self.rate / MILLION
    }

    /// After how much of the world's time it has gone on by this much.
    pub fn until(&self, duration: Micros) -> Micros {
        duration.saturating_mul(MILLION).div_ceil(self.rate)
    }

    /// From now on it goes this many millionths as fast as the world's.
    pub fn go_at(&mut self, rate: Micros, now: Micros) {
        (self.shown, self.since, self.rate) = (self.reading(now), now, rate.max(1));
    }

    /// It leaps forward: its host went to another machine, or was not given the time it shows to have passed.
    pub fn leap(&mut self, by: Micros) {
        self.shown += by;
    }

    /// It stands still, as Linux' does while the machine is suspended.
    pub fn stop(&mut self, now: Micros) {
        (self.shown, self.since, self.stopped) = (self.reading(now), now, true);
    }

    /// It goes on where it stood; for how long it did.
    pub fn go_on(&mut self, now: Micros) -> Micros {
        if !std::mem::replace(&mut self.stopped, false) {
            return 0;
        }
        let stood = now - self.since;
        self.since = now;
        stood
    }
}

#[cfg_attr(not(planted), test)]
fn a_clock_that_stood_still_or_changed_its_rate_never_goes_back() {
    let mut clock = Clock::showing(1_000, 10);
    assert_eq!(clock.reading(110), 1_100);
    clock.go_at(2 * MILLION, 110);
    assert_eq!((clock.reading(160), clock.until(100)), (1_200, 50));
    clock.stop(160);
    assert_eq!(clock.reading(900), 1_200);
    assert_eq!((clock.go_on(900), clock.go_on(950)), (740, 0));
    clock.leap(5);
    assert_eq!(clock.reading(901), 1_207);
}
