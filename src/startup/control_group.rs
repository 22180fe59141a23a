//! The control groups that limit this process: where their files are. Knows no controller's files.

use std::path::{Path, PathBuf};

/// A control group of a hierarchy that has the controller asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ControlGroup {
    /// Where its files are.
    pub(super) folder: PathBuf,
    /// Of version 2, whose one hierarchy has all controllers; version 1 names files otherwise.
    pub(super) unified: bool,
}

/// The groups from this process's own up to the root; `groups` is `/proc/self/cgroup`, whose hierarchies are mounted
/// under `root`.
pub(super) fn with_ancestors(root: &Path, groups: &str, controller: &str) -> Vec<ControlGroup> {
    let mut all = Vec::new();
    for line in groups.lines() {
        // `hierarchy:controllers:path`; version 2 has hierarchy 0 and names no controller.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let unified = controllers.is_empty();
        if !unified && controllers.split(',').all(|name| name != controller) {
            continue;
        }
        let base = if unified { root.to_owned() } else { root.join(controller) };
        // Inside a container the path may be the host's; the root of the mount is then the group itself.
        let own = base.join(path.trim_start_matches('/'));
        let upwards = own.ancestors().take_while(|folder| folder.starts_with(&base));
        all.extend(upwards.map(|folder| ControlGroup { folder: folder.to_owned(), unified }));
    }
    all
}
