//! Listing a directory and what is below it (contract 3.6, `ListDir`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dormouse_agent_proto::rpc::filesystem::EntryInfo;

use super::entry::entry_info;
use crate::users::Accounts;

/// Entries below `root` down to `depth` levels, every directory before its children, names in byte order.
///
/// `root` may be a link; links below it are listed, not followed.
pub(crate) fn list(root: &Path, depth: u32, accounts: &Accounts) -> io::Result<Vec<EntryInfo>> {
    let mut entries = Vec::new();
    // Deepest last: what is pushed last is visited first.
    let mut open: Vec<(PathBuf, u32)> = Vec::new();
    push_children(root, 1, &mut open)?;
    while let Some((path, level)) = open.pop() {
        // What is gone by now was never listed.
        let Ok(entry) = entry_info(&path, accounts) else {
            continue;
        };
        let descend = level < depth && fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        entries.push(entry);
        if descend {
            // A directory below that cannot be read is listed as one without children.
            let _ = push_children(&path, level + 1, &mut open);
        }
    }
    Ok(entries)
}

fn push_children(directory: &Path, level: u32, open: &mut Vec<(PathBuf, u32)>) -> io::Result<()> {
    let mut children: Vec<PathBuf> = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .map(|child| directory.join(child.file_name()))
        .collect();
    // Siblings differ in their names only.
    children.sort_unstable_by(|one, other| other.as_os_str().cmp(one.as_os_str()));
    open.extend(children.into_iter().map(|path| (path, level)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(depth: u32, expected: &[&str]) {
        let root = tempfile::tempdir().expect("temporary directory");
        for directory in ["b/c/d", "a", "a.b"] {
            fs::create_dir_all(root.path().join(directory)).expect("made");
        }
        for file in ["b/z", "b/c/y", "a/x", "B"] {
            fs::write(root.path().join(file), "").expect("written");
        }
        std::os::unix::fs::symlink("b", root.path().join("link")).expect("linked");
        let above = tempfile::tempdir().expect("temporary directory");
        let linked = above.path().join("root");
        std::os::unix::fs::symlink(root.path(), &linked).expect("linked");
        let entries = list(&linked, depth, &Accounts::default()).expect("readable");
        let expected: Vec<String> = expected.iter().map(|path| linked.join(path).display().to_string()).collect();
        let paths: Vec<String> = entries.into_iter().map(|entry| entry.path).collect();
        assert_eq!(paths, expected);
    }

    #[test]
    fn orders_like_the_original() {
        check(1, &["B", "a", "a.b", "b", "link"]);
        check(2, &["B", "a", "a/x", "a.b", "b", "b/c", "b/z", "link"]);
        check(9, &["B", "a", "a/x", "a.b", "b", "b/c", "b/c/d", "b/c/y", "b/z", "link"]);
    }
}
