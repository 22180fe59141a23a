//! What this process may use of the machine: processors and memory, with the limits of its control group counted honestly.

use std::fs;
use std::path::Path;

use kernels::Isa;

use super::control_group::{ControlGroup, with_ancestors};
use super::processors::Processors;

/// The machine as this process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Where it may run.
    pub processors: Processors,
    /// Bytes that can be taken without swapping and without being killed for it; `None` where the system does not say.
    pub free_memory: Option<usize>,
    /// The best instruction set.
    pub isa: Isa,
}

impl Machine {
    /// Looks.
    pub fn detect() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").ok();
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let system = meminfo.as_deref().and_then(|meminfo| kibibytes(meminfo, "MemAvailable:"));
        Self {
            processors: Processors::detect(),
            free_memory: system.into_iter().chain(group_memory(Path::new("/sys/fs/cgroup"), &groups)).min(),
            isa: Isa::detect(),
        }
    }
}

/// Bytes of memory that this process has now.
pub(super) fn resident() -> Option<usize> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The bytes that stand as KiB behind `key` in a file of `/proc`.
fn kibibytes(file: &str, key: &str) -> Option<usize> {
    let line = file.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the control groups from this process's own up to the root still allow, bytes.
fn group_memory(root: &Path, groups: &str) -> Option<usize> {
    let free = |group: &ControlGroup| {
        let number = |name: &str| fs::read_to_string(group.folder.join(name)).ok()?.trim().parse::<usize>().ok();
        let (limit, used) = if group.unified {
            ("memory.max", "memory.current")
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
        };
        let limit = number(limit)?;
        let cached = reclaimable(&fs::read_to_string(group.folder.join("memory.stat")).unwrap_or_default());
        Some(limit.saturating_sub(number(used).unwrap_or(0).saturating_sub(cached)))
    };
    with_ancestors(root, groups, "memory").iter().filter_map(free).min()
}

/// Page cache that the kernel gives back under pressure, bytes.
fn reclaimable(stat: &str) -> usize {
    let line = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_kib() {
        let meminfo = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n";
        assert_eq!(kibibytes(meminfo, "MemAvailable:"), Some(8_000_000 * 1024));
        assert_eq!(kibibytes("MemTotal: 5 kB\n", "MemAvailable:"), None);
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let outer = root.path().join("outer");
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).unwrap();
        for (group, limit, used) in [(&outer, "1000", "900"), (&inner, "max", "50")] {
            fs::write(group.join("memory.max"), format!("{limit}\n")).unwrap();
            fs::write(group.join("memory.current"), format!("{used}\n")).unwrap();
        }
        fs::write(outer.join("memory.stat"), "anon 5\ninactive_file 200\n").unwrap();
        assert_eq!(group_memory(root.path(), "0::/outer/inner\n"), Some(300));
        assert_eq!(group_memory(root.path(), "0::/\n"), None);
    }

    #[test]
    fn version_one_has_a_memory_hierarchy_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("memory/job");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("memory.limit_in_bytes"), "4096").unwrap();
        fs::write(group.join("memory.usage_in_bytes"), "96").unwrap();
        assert_eq!(group_memory(root.path(), "5:cpu,cpuacct:/job\n4:memory:/job\n"), Some(4000));
    }
}
