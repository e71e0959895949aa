//! `docs/architecture.md` is true where a test can tell: its list of the modules with unsafe code.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of all crates.
fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
            false => vec![],
        })
        .collect()
}

/// Whether a file lifts the ban on unsafe code, for all of it or for one item.
fn may_be_unsafe(source: &str) -> bool {
    let packed: String = source.chars().filter(|character| !character.is_whitespace()).collect();
    packed.contains("allow(unsafe_code")
}

/// `shard::window` for `shard/src/window.rs`.
fn module(path: &Path) -> String {
    let path = path.strip_prefix(crates()).unwrap().with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "src").collect();
    parts.join("::")
}

#[test]
fn the_list_of_modules_with_unsafe_code_is_complete() {
    let folders = fs::read_dir(crates()).unwrap().map(|entry| entry.unwrap().path().join("src"));
    let found: BTreeSet<_> = folders
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| sources(&folder))
        .filter(|path| may_be_unsafe(&fs::read_to_string(path).unwrap()))
        .map(|path| module(&path))
        .collect();
    let page = fs::read_to_string(crates().join("../docs/architecture.md")).unwrap();
    let list = page.split("`unsafe` stands in").nth(1).unwrap().split(';').next().unwrap();
    let listed: BTreeSet<_> = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(listed, found);
}
