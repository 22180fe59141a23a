//! What groups of a directory or of a company's tokens mean here; shared by `[directory]` and `[issuer]`.

use super::ConfigError;
use super::check::{Origin, invalid};

/// What groups mean. A group is named by its plain name or by its distinguished name, in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupRules {
    /// Their members may come in; none is everybody.
    pub users: Vec<String>,
    /// Their members are administrators, all others are not; none leaves roles to this installation.
    pub admins: Vec<String>,
    /// Group and department; the first that fits counts.
    pub departments: Vec<(String, String)>,
}

/// Reads `GROUP -> DEPARTMENT`.
pub(super) fn departments(
    key: &'static str,
    lines: Vec<String>,
    origin: Origin,
) -> Result<Vec<(String, String)>, ConfigError> {
    let read = |line: String| {
        let parts = line.rsplit_once("->").map(|(group, department)| (group.trim(), department.trim()));
        let parts = parts.filter(|(group, department)| !group.is_empty() && !department.is_empty());
        let (group, department) = parts
            .ok_or_else(|| invalid(key, origin, format!("holds `{line}`, which is not \"GROUP -> DEPARTMENT\"")))?;
        Ok((group.to_owned(), department.to_owned()))
    };
    lines.into_iter().map(read).collect()
}
