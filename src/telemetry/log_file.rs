//! The log's file. When it is full, or a new day or hour begins, it is renamed to that moment and a new one begins; the
//! oldest of the renamed are removed. No line is cut, and none is lost: what cannot be renamed goes on growing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::calendar::civil_from_days;
use crate::config::Rotation;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// The file that is written to; each write is a line.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    limits: Limits,
    file: File,
    bytes: u64,
    /// When the last line was written.
    last: SystemTime,
}

/// When a new file begins, and how many that have ended are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub rotation: Rotation,
    pub most_bytes: Option<u64>,
    pub keep: usize,
}

impl LogFile {
    /// Goes on with the file that is there.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = append_to(path)?;
        let about = file.metadata()?;
        let last = if about.len() > 0 { about.modified()? } else { SystemTime::now() };
        Ok(Self { path: path.to_owned(), limits, file, bytes: about.len(), last })
    }

    fn write_line(&mut self, line: &[u8], now: SystemTime) -> io::Result<usize> {
        if self.is_due(line.len(), now) {
            // Without a new file the old one is better than nothing.
            let _ = self.begin_another(now);
        }
        self.last = now;
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn is_due(&self, more: usize, now: SystemTime) -> bool {
        let is_full = self.limits.most_bytes.is_some_and(|most| self.bytes + more as u64 > most);
        let period = match self.limits.rotation {
            Rotation::Never => return self.bytes > 0 && is_full,
            Rotation::Hourly => HOUR,
            Rotation::Daily => DAY,
        };
        self.bytes > 0 && (is_full || seconds(now) / period != seconds(self.last) / period)
    }

    fn begin_another(&mut self, now: SystemTime) -> io::Result<()> {
        let ended = beside(&self.path, &format!(".{}", moment(now)));
        if ended.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(&self.path, &ended)?;
        self.file = append_to(&self.path)?;
        self.bytes = 0;
        self.remove_oldest()
    }

    fn remove_oldest(&self) -> io::Result<()> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let start = format!("{}.", name.to_string_lossy());
        let is_ended = |file: &PathBuf| {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.strip_prefix(&start).is_some_and(is_moment)
        };
        let files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut ended: Vec<PathBuf> = files.filter(is_ended).collect();
        // Their names sort as their times do.
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(self.limits.keep);
        ended[..too_many].iter().try_for_each(fs::remove_file)
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_line(line, SystemTime::now())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// `path` with more at its end.
fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `2026-11-22T14-03-05.123456Z`: without colons, which some file systems do not take.
fn moment(time: SystemTime) -> String {
    let micros = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_micros());
    let seconds = seconds(time);
    let (year, month, day) = civil_from_days(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / HOUR, seconds % HOUR / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{micros:06}Z")
}

/// Whether it was made by [`moment`].
fn is_moment(text: &str) -> bool {
    let pattern = moment(UNIX_EPOCH);
    let fits = |(c, like): (char, char)| c == like || (c.is_ascii_digit() && like.is_ascii_digit());
    text.len() == pattern.len() && text.chars().zip(pattern.chars()).all(fits)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 2026-11-22 23:30 UTC.
    fn evening() -> SystemTime {
        UNIX_EPOCH + Duration::from_mins(29_923_170)
    }

    fn log(folder: &Path, rotation: Rotation, most_bytes: Option<u64>, keep: usize) -> LogFile {
        let mut file = LogFile::open(&folder.join("logs/steppe.log"), Limits { rotation, most_bytes, keep }).unwrap();
        file.last = evening();
        file
    }

    /// Names and contents, oldest first; the one that is written to comes first.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder.join("logs")).unwrap().map(|entry| entry.unwrap());
        let mut all: Vec<(String, String)> = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_new_day_or_hour_begins_a_new_file() {
        for (rotation, minutes, wanted) in [
            (Rotation::Hourly, 40, "steppe.log.2026-11-23T00-10-00.000000Z"),
            (Rotation::Daily, 40, "steppe.log.2026-11-23T00-10-00.000000Z"),
            (Rotation::Daily, 20, ""),
            (Rotation::Hourly, 20, ""),
            (Rotation::Never, 40, ""),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut file = log(folder.path(), rotation, None, 9);
            file.write_line(b"before\n", evening()).unwrap();
            file.write_line(b"after\n", evening() + Duration::from_mins(minutes)).unwrap();
            let files = files(folder.path());
            if wanted.is_empty() {
                assert_eq!(files, [("steppe.log".to_owned(), "before\nafter\n".to_owned())]);
            } else {
                let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
                assert_eq!(files, [("steppe.log", "after\n"), (wanted, "before\n")]);
            }
        }
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = log(folder.path(), Rotation::Never, Some(12), 2);
        fs::write(folder.path().join("logs/steppe.log.old"), "mine").unwrap();
        for (index, line) in ["one\n", "two\n", "three\n", "a line longer than a file\n", "five\n"].iter().enumerate() {
            file.write_line(line.as_bytes(), evening() + Duration::from_secs(index as u64)).unwrap();
        }
        let texts: Vec<_> = files(folder.path()).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["five\n", "three\n", "a line longer than a file\n", "mine"]);
        // Two ends in the same moment: the file grows rather than that one is lost.
        let now = evening() + Duration::from_secs(4);
        file.write_line(b"six six six\n", now).unwrap();
        assert_eq!(files(folder.path())[0].1, "five\nsix six six\n");
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path(), Rotation::Daily, None, 9).write_line(b"before\n", evening()).unwrap();
        let path = folder.path().join("logs/steppe.log");
        File::options().append(true).open(&path).unwrap().set_modified(evening()).unwrap();
        let mut again = LogFile::open(&path, Limits { rotation: Rotation::Daily, most_bytes: None, keep: 9 }).unwrap();
        again.write_line(b"later\n", evening() + Duration::from_mins(1)).unwrap();
        again.write_line(b"next day\n", evening() + Duration::from_hours(1)).unwrap();
        let texts: Vec<_> = files(folder.path()).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["next day\n", "before\nlater\n"]);
    }
}
