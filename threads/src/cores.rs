//! How many threads make sense: one for each physical core. Two threads of one core share the units that ternary
//! kernels fill, and only get into each other's way.

use std::thread::available_parallelism;

/// Physical cores that this process may use, at least 1: affinity and CPU quotas are respected.
pub fn physical_cores() -> usize {
    let logical = available_parallelism().map_or(1, |n| n.get());
    cores().map_or(logical, |cores| cores.clamp(1, logical))
}

#[cfg(not(target_os = "linux"))]
fn cores() -> Option<usize> {
    Some(num_cpus::get_physical())
}

#[cfg(target_os = "linux")]
use linux::cores;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::fs::read_to_string;
    use std::path::Path;

    /// Cores that have at least one CPU in this thread's affinity mask.
    pub fn cores() -> Option<usize> {
        let status = read_to_string("/proc/thread-self/status").ok()?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        count(Path::new("/sys/devices/system/cpu"), &cpus(allowed)?)
    }

    /// Distinct cores of these CPUs; CPUs of one core name the same siblings.
    fn count(system: &Path, allowed: &[usize]) -> Option<usize> {
        let siblings = |cpu: &usize| {
            let topology = system.join(format!("cpu{cpu}/topology"));
            read_to_string(topology.join("core_cpus_list"))
                .or_else(|_| read_to_string(topology.join("thread_siblings_list")))
                .ok()
        };
        let cores: Option<BTreeSet<String>> = allowed.iter().map(siblings).collect();
        cores.map(|cores| cores.len())
    }

    /// The CPUs of a list as the kernel writes it, `0-3,8`.
    fn cpus(list: &str) -> Option<Vec<usize>> {
        let mut cpus = Vec::new();
        for piece in list.trim().split(',') {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            cpus.extend(first.parse().ok()?..=last.parse::<usize>().ok()?);
        }
        Some(cpus)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// CPUs 0 and 2, and 1 and 3, are one core each.
        fn two_cores_of_two_threads(file: &str) -> tempfile::TempDir {
            let system = tempfile::tempdir().unwrap();
            for cpu in 0..4 {
                let topology = system.path().join(format!("cpu{cpu}/topology"));
                std::fs::create_dir_all(&topology).unwrap();
                let siblings = format!("{},{}\n", cpu % 2, cpu % 2 + 2);
                std::fs::write(topology.join(file), siblings).unwrap();
            }
            system
        }

        #[test]
        fn siblings_count_once_and_only_where_they_are_allowed() {
            for file in ["core_cpus_list", "thread_siblings_list"] {
                let system = two_cores_of_two_threads(file);
                let cores = |allowed: &str| count(system.path(), &cpus(allowed).unwrap());
                assert_eq!(cores("0-3"), Some(2));
                assert_eq!(cores("0,2"), Some(1));
                assert_eq!(cores("1-2\n"), Some(2));
                assert_eq!(cores("0-4"), None, "cpu4 has no topology");
            }
        }

        #[test]
        fn lists_that_make_no_sense_are_not_guessed_at() {
            assert_eq!(cpus("0-2,7"), Some(vec![0, 1, 2, 7]));
            assert_eq!(cpus(""), None);
            assert_eq!(cpus("all"), None);
        }
    }
}
