//! The mechanical part of the house style: file lengths and heads, who may import whom, what never stands in the code.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines a file may have; inline tests and `kernels/` apart.
const MAX_LINES: usize = 500;
/// Half of the files are shorter than this.
const MEDIAN_LINES: usize = 150;

struct Source {
    /// Path from the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Whole files of tests, benches and examples.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap();
        self.path.split('/').any(|part| matches!(part, "tests" | "benches" | "examples"))
            || matches!(name, "tests.rs" | "testing.rs")
            || name.ends_with("_tests.rs")
    }

    /// The lines above the inline tests: `#[cfg(test)]`, further attributes, `mod NAME {`.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<_> = self.text.lines().collect();
        let opens_tests = |start: usize| {
            let mut following = lines[start + 1..].iter().map(|line| line.trim());
            let item = following.find(|line| !line.starts_with("#["));
            lines[start].trim() == "#[cfg(test)]"
                && item.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
        };
        let end = (0..lines.len()).find(|&start| opens_tests(start)).unwrap_or(lines.len());
        lines.into_iter().enumerate().take(end).map(|(index, line)| (index + 1, line))
    }

    /// Code lines that are not comments.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn in_any(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            let module = place.strip_suffix(".rs").unwrap_or(place);
            self.path == *place || self.path.starts_with(&format!("{module}/"))
        })
    }
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "models", "kernels", "tests", "benches"] {
        walk(&root.join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 10, "only {} sources found", paths.len());
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/"),
    };
    paths.into_iter().filter(|path| !path.components().any(|c| c.as_os_str() == "target")).map(read).collect()
}

/// Fails with all findings at once, each as `path:line: what`.
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Statements of `files` that hold one of `needles`.
fn holding<'a>(files: impl Iterator<Item = &'a Source>, needles: &[&str], rule: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        for (number, line) in file.statements() {
            if needles.iter().any(|needle| line.contains(needle)) {
                findings.push(format!("{}:{number}: {rule}: {}", file.path, line.trim()));
            }
        }
    }
    findings
}

#[test]
fn files_stay_short() {
    let mut lengths = Vec::new();
    let mut findings = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test() && !file.path.starts_with("kernels/")) {
        let lines = file.code().count();
        lengths.push(lines);
        if lines > MAX_LINES {
            findings.push(format!("{}: {lines} lines, {MAX_LINES} is the most: which noun is missing?", file.path));
        }
    }
    assert_none(&findings);
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median < MEDIAN_LINES, "half of the files have {median} lines or more");
}

#[test]
fn files_open_with_what_they_own() {
    let mut findings = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test()) {
        let head = file.text.lines().take_while(|line| line.starts_with("//!")).count();
        if !(1..=12).contains(&head) {
            findings.push(format!("{}: opens with {head} lines of `//!`", file.path));
        }
    }
    assert_none(&findings);
}

#[test]
fn imports_point_downwards() {
    let files = sources();
    // Each layer with the modules that it may not name.
    let rules: [(&[&str], &[&str]); 13] = [
        (&["src/text.rs"], &["engine", "generate", "server", "cli", "config", "telemetry"]),
        (&["src/engine.rs"], &["text", "generate", "server", "cli", "config"]),
        (&["src/store.rs"], &["auth", "ledger", "engine", "text", "generate", "server", "cli", "config"]),
        (
            &["src/audit.rs"],
            &["auth", "cache", "config", "engine", "generate", "kv_store", "ledger", "limits", "server", "text", "cli"],
        ),
        (&["src/auth.rs"], &["engine", "text", "generate", "server", "cli"]),
        (
            &["src/resilience.rs"],
            &["auth", "cache", "engine", "generate", "kv_store", "ledger", "limits", "server", "store"],
        ),
        (
            &["src/kv_store.rs"],
            &["auth", "cache", "config", "engine", "generate", "ledger", "limits", "server", "store", "text"],
        ),
        (&["src/limits.rs"], &["auth", "cache", "config", "engine", "generate", "ledger", "server", "text"]),
        (&["src/cache.rs"], &["auth", "config", "engine", "generate", "ledger", "limits", "server", "text"]),
        (&["src/ledger.rs"], &["auth", "cache", "limits", "engine", "text", "generate", "server", "cli", "config"]),
        (&["src/health.rs"], &["auth", "cache", "config", "generate", "limits", "server", "text", "cli"]),
        (&["src/generate.rs"], &["server", "cli"]),
        (&["src/server.rs"], &["cli", "text"]),
    ];
    for (layer, forbidden) in rules {
        let needles: Vec<String> =
            forbidden.iter().flat_map(|module| [format!("crate::{module}::"), format!("crate::{module};")]).collect();
        let needles: Vec<&str> = needles.iter().map(String::as_str).collect();
        let layer_files = files.iter().filter(|file| file.in_any(layer) && !file.is_test());
        assert_none(&holding(layer_files, &needles, "imports upwards or sideways"));
    }
}

#[test]
fn only_the_runner_and_the_choosers_know_candle() {
    let files = sources();
    let engine = |file: &&Source| {
        file.in_any(&["src/engine.rs"])
            && !file.in_any(&["src/engine/model_runner.rs", "src/engine/chooser.rs"])
            && !file.is_test()
    };
    assert_none(&holding(files.iter().filter(engine), &["candle"], "imports Candle"));
}

#[test]
fn crates_keep_to_their_layer() {
    let files = sources();
    let models = files.iter().filter(|file| file.path.starts_with("models/src/"));
    assert_none(&holding(models, &["tokio", "axum", "steppe::"], "models knows no server"));
    let kernels = files.iter().filter(|file| file.path.starts_with("kernels/src/"));
    assert_none(&holding(kernels, &["tokio", "axum", "models::", "steppe::"], "kernels knows no model"));
    // Tests say for which builds they are.
    let outside = files.iter().filter(|file| !file.path.starts_with("kernels/") && !file.path.contains("tests/"));
    assert_none(&holding(outside, &["feature = \"cuda\"", "std::arch", "core::arch"], "belongs into kernels"));
}

#[test]
fn the_environment_is_read_in_one_place() {
    let files = sources();
    let others = files.iter().filter(|file| {
        file.path.starts_with("src/")
            && !file.in_any(&["src/main.rs", "src/config.rs", "src/cli/config_args.rs"])
            && !file.is_test()
    });
    assert_none(&holding(others, &["env::var", "env::args", "env::vars"], "only main and the configuration read it"));
}

#[test]
fn nothing_unfinished_and_nothing_that_panics_on_input() {
    let files = sources();
    let own = || files.iter().filter(|file| !file.is_test());
    assert_none(&holding(own(), &[".unwrap()"], "may panic"));
    assert_none(&holding(own(), &["todo!(", "unimplemented!(", "dbg!("], "unfinished"));
    for file in own() {
        for (number, line) in file.code() {
            let unfinished = ["TODO", "FIXME", "XXX"].iter().any(|word| line.contains(word));
            assert!(!unfinished, "{}:{number}: {}", file.path, line.trim());
        }
    }
}

#[test]
fn ignored_tests_say_who_runs_them() {
    let files = sources();
    let others = files.iter().filter(|file| file.path != "tests/tidy.rs");
    let mut findings = holding(others, &["#[ignore"], "say who runs it: scripts/test --long or scripts/gpu-check");
    let runners = ["scripts/test --long\"]", "scripts/gpu-check\"]"];
    findings.retain(|finding| !runners.iter().any(|runner| finding.ends_with(runner)));
    assert_none(&findings);
}
