//! Whether this machine takes work for others now: its owner's hours, and whether somebody needs its processor.

use std::time::{Duration, Instant};

use heph_types::{Caps, NodeState};
use sysinfo::{CpuRefreshKind, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// Share of the processor that other programs may take before their owner is said to work.
const OTHERS_MAX: f32 = 0.25;

/// How long the processor must have been left alone before the owner is said to be gone.
const QUIET_FOR: Duration = Duration::from_secs(60);

/// Shortest time between two looks: the processor's counters need some to tell anything.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Watches the clock and the processor for a node.
pub struct Attendance {
    caps: Caps,
    /// Absent where the system does not tell; then nobody is seen at work.
    system: Option<System>,
    looked: Option<Instant>,
    works_until: Option<Instant>,
}

impl Attendance {
    /// A watch that keeps to these caps.
    pub fn new(caps: Caps) -> Self {
        let what = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing().with_usage());
        Self {
            caps,
            system: System::new_with_specifics(what).ok(),
            looked: None,
            works_until: None,
        }
    }

    /// Whether the node takes work now.
    pub fn look(&mut self) -> NodeState {
        let now = Instant::now();
        if self.caps.pause_while_i_work && self.looked.is_none_or(|last| now - last >= LOOK_EVERY) {
            self.looked = Some(now);
            if self.others() > OTHERS_MAX {
                self.works_until = Some(now + QUIET_FOR);
            }
        }
        let works = self.works_until.is_some_and(|until| now < until);
        self.caps.state(minute_of_day(), works)
    }

    /// Share of the processor that other programs took since the last look.
    fn others(&mut self) -> f32 {
        let (Some(system), Ok(me)) = (&mut self.system, sysinfo::get_current_pid()) else {
            return 0.0;
        };
        system.refresh_cpu_usage();
        let what = ProcessRefreshKind::nothing().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[me]), false, what);
        let cores = system.cpus().len().max(1) as f32;
        let all = system.global_cpu_usage() / 100.0;
        // A process is counted in percent of one core.
        let own = system.process(me).map_or(0.0, |p| p.cpu_usage() / 100.0 / cores);
        (all - own).max(0.0)
    }
}

/// Minutes after midnight, where this machine is.
fn minute_of_day() -> u16 {
    let now = jiff::Zoned::now();
    now.hour().unsigned_abs() as u16 * 60 + now.minute().unsigned_abs() as u16
}

#[cfg(test)]
mod tests {
    use heph_types::Hours;

    use super::*;

    #[test]
    fn a_node_keeps_its_hours() {
        let minute = minute_of_day();
        assert!(minute < 24 * 60);
        let hours = |from: u16, until: u16| Caps {
            hours: Some(Hours { from, until }),
            ..Caps::default()
        };
        let later = |by: u16| (minute + by) % (24 * 60);
        assert_eq!(Attendance::new(Caps::default()).look(), NodeState::Open);
        assert_eq!(Attendance::new(hours(later(0), later(5))).look(), NodeState::Open);
        assert_eq!(
            Attendance::new(hours(later(60), later(120))).look(),
            NodeState::OutOfHours
        );
    }

    #[test]
    fn a_node_whose_owner_works_pauses_until_the_processor_was_left_alone() {
        let caps = Caps {
            pause_while_i_work: true,
            ..Caps::default()
        };
        let mut attendance = Attendance::new(caps);
        attendance.looked = Some(Instant::now());
        attendance.works_until = Some(Instant::now() + QUIET_FOR);
        assert_eq!(attendance.look(), NodeState::OwnerWorks);
        attendance.works_until = Some(Instant::now());
        assert_eq!(attendance.look(), NodeState::Open);
    }
}
