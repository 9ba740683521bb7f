//! How much of the machine other processes took while something was measured.

/// Processor time so far, in the kernel's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// Of all cores, idle or not.
    all: u64,
    /// Of all cores, not idle.
    busy: u64,
    /// Of this process and of those that it started and that have ended.
    own: u64,
}

impl Ticks {
    /// The time now; `None` where the system does not tell.
    pub fn now() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        Self::parse(&read("/proc/stat")?, &read("/proc/self/stat")?)
    }

    fn parse(machine: &str, process: &str) -> Option<Self> {
        let cores = machine.lines().next()?.strip_prefix("cpu ")?;
        // user, nice, system, idle, waiting, interrupts (two), stolen; guests count as users.
        let cores: Vec<u64> = cores
            .split_whitespace()
            .take(8)
            .map_while(|ticks| ticks.parse().ok())
            .collect();
        let all = cores.iter().sum();
        let idle = cores.get(3)? + cores.get(4)?;
        // Its name, in brackets, may hold anything; behind it stand 11 other fields and then the four times.
        let (_, process) = process.rsplit_once(") ")?;
        let times = process.split(' ').skip(11).take(4);
        let times: Vec<u64> = times.map_while(|ticks| ticks.parse().ok()).collect();
        (times.len() == 4).then(|| Self {
            all,
            busy: all - idle,
            own: times.iter().sum(),
        })
    }

    /// The share of all cores that others took since `earlier`, 0 to 1.
    pub fn others_since(self, earlier: Self) -> f64 {
        let busy = self.busy.saturating_sub(earlier.busy);
        let own = self.own.saturating_sub(earlier.own);
        let all = self.all.saturating_sub(earlier.all).max(1);
        busy.saturating_sub(own) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: &str = "7 (a) b) S 1 7 7 0 -1 4 0 0 0 0 10 20 300 4000 20 0 1 0 9";

    #[test]
    fn ticks_are_read_from_the_kernels_tables() {
        let machine = "cpu  100 2 30 4000 50 6 7 8 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let expected = Ticks {
            all: 4203,
            busy: 153,
            own: 4330,
        };
        assert_eq!(Ticks::parse(machine, PROCESS), Some(expected));
        assert_eq!(Ticks::parse("", PROCESS), None);
        assert_eq!(Ticks::parse(machine, "7 (a) S 1"), None);
    }

    #[test]
    fn others_are_what_is_busy_and_not_own() {
        let [before, after] =
            [[1000, 100, 50], [1200, 250, 160]].map(|[all, busy, own]| Ticks { all, busy, own });
        assert!((after.others_since(before) - 0.2).abs() < 1e-9);
        assert_eq!(before.others_since(before), 0.0);
    }
}
