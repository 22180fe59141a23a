//! Who runs this program.

use std::os::unix::fs::MetadataExt as _;

/// What `/proc/self/loginuid` holds where nobody has logged in.
const NOBODY: &str = "4294967295";

/// Name or number of who has logged in, whoever they have become since (`sudo`); else of whom the process belongs to.
pub(super) fn name() -> String {
    let login = std::fs::read_to_string("/proc/self/loginuid").ok().map(|text| text.trim().to_owned());
    let login = login.filter(|uid| !uid.is_empty() && uid != NOBODY);
    let own = || std::fs::metadata("/proc/self").map_or_else(|_| "?".into(), |process| process.uid().to_string());
    let uid = login.unwrap_or_else(own);
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    named.unwrap_or(uid)
}
