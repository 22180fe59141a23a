//! The machine: processor, memory, disk, and GPUs where a driver is present. What the system does not say is left out.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The machine as it is now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineReport {
    /// Logical processors.
    pub processors: usize,
    /// Use of all processors since the last look, percent.
    pub processor_percent: f64,
    /// Load average of 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes that can be taken without swapping.
    pub memory_available: u64,
    /// Bytes of this process.
    pub memory_process: u64,
    /// The disk of `data.dir`.
    pub disk: Option<Disk>,
    /// GPUs, if a driver is present.
    pub gpus: Vec<Gpu>,
}

/// A disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes of it.
    pub total: u64,
    /// Bytes that this process may still write.
    pub free: u64,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// What its maker calls it.
    pub name: String,
    /// Bytes of memory, and those in use.
    pub memory: Option<(u64, u64)>,
    /// Use of its processors, percent.
    pub percent: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
}

/// Looks at the machine.
#[derive(Debug)]
pub struct Machine {
    data: PathBuf,
    system: Mutex<System>,
    /// None where there is no driver.
    driver: OnceLock<Option<Nvml>>,
}

impl Machine {
    /// `data` is the directory whose disk counts.
    pub(super) fn new(data: PathBuf) -> Self {
        let mut system = System::new();
        system.refresh_cpu_usage();
        Self { data, system: Mutex::new(system), driver: OnceLock::new() }
    }

    /// The disk.
    pub(super) fn disk(&self) -> std::io::Result<Disk> {
        // Before the first write the directory may be absent; its nearest parent is on the same disk.
        let there = self.data.ancestors().find(|path| path.exists()).filter(|path| !path.as_os_str().is_empty());
        let found = rustix::fs::statvfs(there.unwrap_or(".".as_ref()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Disk { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }

    /// Everything.
    pub(super) fn report(&self) -> MachineReport {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        system.refresh_cpu_usage();
        system.refresh_memory();
        let own = Pid::from_u32(std::process::id());
        let only_memory = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), true, only_memory);
        let load = System::load_average();
        let percent = f64::from(system.global_cpu_usage());
        MachineReport {
            processors: system.cpus().len(),
            processor_percent: if percent.is_finite() { percent } else { 0.0 },
            load: [load.one, load.five, load.fifteen],
            memory_total: system.total_memory(),
            memory_available: system.available_memory(),
            memory_process: system.process(own).map_or(0, sysinfo::Process::memory),
            disk: self.disk().ok(),
            gpus: self.gpus(),
        }
    }

    fn gpus(&self) -> Vec<Gpu> {
        let Some(driver) = self.driver.get_or_init(|| Nvml::init().ok()) else { return Vec::new() };
        let devices = (0..driver.device_count().unwrap_or(0)).filter_map(|index| driver.device_by_index(index).ok());
        devices
            .map(|device| Gpu {
                name: device.name().unwrap_or_default(),
                memory: device.memory_info().ok().map(|memory| (memory.total, memory.used)),
                percent: device.utilization_rates().ok().map(|rates| rates.gpu),
                temperature: device.temperature(TemperatureSensor::Gpu).ok(),
            })
            .collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_whole_with_and_without_a_driver() {
        let folder = tempfile::tempdir().unwrap();
        let report = Machine::new(folder.path().join("not/made/yet")).report();
        assert!(report.processors >= 1 && (0.0..=100.0).contains(&report.processor_percent), "{report:?}");
        assert!(report.memory_process > 1 << 20 && report.memory_total > report.memory_process, "{report:?}");
        let Disk { total, free } = report.disk.unwrap();
        assert!(total > 0 && free <= total);
    }
}
