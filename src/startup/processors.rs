//! The processors that this process may run on: cores counted once however many hyper-threads they have, the nodes of
//! memory that they are near to, and the quota of the control group.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::control_group::with_ancestors;

/// Processors within the affinity mask, and what limits them further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors {
    /// Physical cores.
    pub cores: usize,
    /// Logical processors; more than cores where they have hyper-threads.
    pub logical: usize,
    /// NUMA nodes.
    pub nodes: usize,
    /// Time that the control group allows, in hundredths of a processor.
    pub quota: Option<usize>,
    /// Memory is spread over the nodes, as `numactl --interleave` does.
    pub interleaved: bool,
}

impl Processors {
    /// Looks.
    pub(super) fn detect() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let [status, groups] = ["/proc/self/status", "/proc/self/cgroup"].map(read);
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(list);
        let allowed = allowed
            .filter(|allowed| !allowed.is_empty())
            .unwrap_or_else(|| (0..std::thread::available_parallelism().map_or(1, usize::from)).collect());
        // `address policy …`; a policy that is not set for a part of memory is the process's.
        let policies = read("/proc/self/numa_maps");
        let policy = policies.lines().next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        Self {
            quota: quota(Path::new("/sys/fs/cgroup"), &groups),
            interleaved: policy.starts_with("interleave"),
            ..Self::of(Path::new("/sys/devices/system"), &allowed)
        }
    }

    /// What `system` (`/sys/devices/system`) says of the processors `allowed`. One of which it says nothing is a core.
    fn of(system: &Path, allowed: &[usize]) -> Self {
        let siblings = |cpu: &usize| {
            let topology = system.join(format!("cpu/cpu{cpu}/topology"));
            let file = |name| fs::read_to_string(topology.join(name)).ok();
            file("core_cpus_list")
                .or_else(|| file("thread_siblings_list"))
                .map_or_else(|| vec![*cpu], |text| list(&text))
        };
        let cores: HashSet<Vec<usize>> = allowed.iter().map(siblings).collect();
        let nodes = fs::read_dir(system.join("node")).into_iter().flatten().flatten().filter(|node| {
            let cpus = fs::read_to_string(node.path().join("cpulist")).unwrap_or_default();
            list(&cpus).iter().any(|cpu| allowed.contains(cpu))
        });
        let nodes = nodes.count().max(1);
        Self { cores: cores.len(), logical: allowed.len(), nodes, quota: None, interleaved: false }
    }

    /// Threads that compute best: one a core, whole processors of the quota. A hyper-thread adds nothing to kernels that
    /// keep their core busy, and a thread that the quota stops keeps the others waiting.
    pub fn threads(&self) -> usize {
        self.quota.map_or(self.cores, |quota| self.cores.min(quota / 100)).max(1)
    }
}

/// The numbers of a list such as `0-3,8`. What is not a number, or a range too long to be one of processors, is left out.
fn list(text: &str) -> Vec<usize> {
    const MOST: usize = 1 << 16;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (last < MOST).then_some(first..=last)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// The least that the control groups allow, in hundredths of a processor.
fn quota(root: &Path, groups: &str) -> Option<usize> {
    let of = |folder: &Path, unified: bool| {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let text =
            if unified { read("cpu.max")? } else { read("cpu.cfs_quota_us")? + " " + &read("cpu.cfs_period_us")? };
        // `max` or -1: no limit.
        let mut numbers = text.split_whitespace().map(str::parse::<usize>);
        let (Some(Ok(quota)), Some(Ok(period))) = (numbers.next(), numbers.next()) else { return None };
        quota.checked_mul(100)?.checked_div(period)
    };
    with_ancestors(root, groups, "cpu").iter().filter_map(|group| of(&group.folder, group.unified)).min()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A machine of `cpus`, `(siblings, node)` of each.
    fn machine(cpus: &[(&str, usize)]) -> tempfile::TempDir {
        let system = tempfile::tempdir().unwrap();
        for (cpu, (siblings, node)) in cpus.iter().enumerate() {
            let topology = system.path().join(format!("cpu/cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            // Older kernels have the second name only.
            let name = if cpu % 2 == 0 { "core_cpus_list" } else { "thread_siblings_list" };
            fs::write(topology.join(name), format!("{siblings}\n")).unwrap();
            let node = system.path().join(format!("node/node{node}"));
            fs::create_dir_all(&node).unwrap();
            let list = fs::read_to_string(node.join("cpulist")).unwrap_or_default();
            fs::write(node.join("cpulist"), format!("{list}{}{cpu}", if list.is_empty() { "" } else { "," })).unwrap();
        }
        fs::write(system.path().join("node/online"), "0-1\n").unwrap();
        system
    }

    fn processors(cores: usize, logical: usize, nodes: usize) -> Processors {
        Processors { cores, logical, nodes, quota: None, interleaved: false }
    }

    #[test]
    fn hyper_threads_of_a_core_count_once_and_nodes_only_where_allowed() {
        let two_nodes =
            [("0,4", 0), ("1,5", 0), ("2,6", 1), ("3,7", 1), ("0,4", 0), ("1,5", 0), ("2,6", 1), ("3,7", 1)];
        let system = machine(&two_nodes);
        assert_eq!(Processors::of(system.path(), &list("0-7\n")), processors(4, 8, 2));
        assert_eq!(Processors::of(system.path(), &list("0-3")), processors(4, 4, 2));
        assert_eq!(Processors::of(system.path(), &list("0,4,1")), processors(2, 3, 1));
        assert_eq!(Processors::of(Path::new("/nowhere"), &[3, 4]), processors(2, 2, 1));
    }

    #[test]
    fn lists_are_read_and_nonsense_left_out() {
        assert_eq!(list("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(list("x,3,5-4,1-,0-99999999999"), [3]);
        assert_eq!(list(""), [0; 0]);
    }

    #[test]
    fn the_tightest_quota_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/outer/inner\n"), None);
        fs::write(root.path().join("outer/cpu.max"), "250000 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/outer/inner\n"), Some(250));
        assert_eq!(quota(root.path(), "0::/\n"), None);
    }

    #[test]
    fn version_one_has_quota_and_period_in_files_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("cpu/job");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cpu.cfs_quota_us"), "-1\n").unwrap();
        fs::write(group.join("cpu.cfs_period_us"), "50000\n").unwrap();
        let groups = "4:memory:/other\n3:cpu,cpuacct:/job\n";
        assert_eq!(quota(root.path(), groups), None);
        fs::write(group.join("cpu.cfs_quota_us"), "25000\n").unwrap();
        assert_eq!(quota(root.path(), groups), Some(50));
    }

    #[test]
    fn there_are_as_many_threads_as_cores_within_the_quota() {
        let with = |quota| Processors { quota, ..processors(8, 16, 1) }.threads();
        assert_eq!([None, Some(1600), Some(650), Some(50)].map(with), [8, 8, 6, 1]);
    }

    #[test]
    fn this_machine_is_one() {
        let found = Processors::detect();
        assert!(0 < found.cores && found.cores <= found.logical, "{found:?}");
        assert!(found.threads() <= std::thread::available_parallelism().unwrap().get(), "{found:?}");
    }
}
