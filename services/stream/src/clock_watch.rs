//! Detects that the system clock was set back. A pure type.
//!
//! librdkafka's threads wait until a time of that clock. When it is set back by a day, they wait
//! for a day, heartbeats are not sent, and the group loses a member that looks healthy. Clients
//! made afterwards are not affected.

use std::time::{Duration, Instant, SystemTime};

/// Smaller steps only make a wait a little longer.
const LEAST: Duration = Duration::from_secs(5);

/// The time of both clocks when they were last compared.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    wall: SystemTime,
    steady: Instant,
}

impl ClockWatch {
    pub fn new(wall: SystemTime, steady: Instant) -> Self {
        Self { wall, steady }
    }

    /// Compares the clocks again; returns how far the system's clock was set back since the last
    /// time, if that is enough to matter.
    pub fn set_back(&mut self, wall: SystemTime, steady: Instant) -> Option<Duration> {
        let expected = self.wall.checked_add(steady - self.steady)?;
        (self.wall, self.steady) = (wall, steady);
        expected.duration_since(wall).ok().filter(|back| *back >= LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_a_large_step_back_of_the_clock_is_reported() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let mut watch = ClockWatch::new(wall, steady);
        let mut after = |seconds: u32, wall| watch.set_back(wall, steady + SECOND * seconds);
        assert_eq!(after(1, wall + SECOND), None);
        assert_eq!(after(2, wall + SECOND * 2 + DAY), None, "a day ahead");
        assert_eq!(after(3, wall + SECOND * 3 + DAY), None);
        assert_eq!(after(4, wall + SECOND * 4), Some(DAY), "and correct again");
        assert_eq!(after(5, wall + SECOND * 5 - DAY), Some(DAY));
        assert_eq!(after(6, wall + SECOND * 4 - DAY), None, "a leap of two seconds");
    }
}
