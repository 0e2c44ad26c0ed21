//! How much a directory holds.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What lies below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk. A file with several names counts as often as it has names here.
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
}

/// Counts what is below `dir`. What disappears meanwhile is not counted.
///
/// # Errors
/// A directory cannot be read.
pub fn of(dir: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        let entries = match fs::read_dir(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            usage.entries += 1;
            usage.bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_counts() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("d")).unwrap();
        fs::write(home.path().join("d/f"), vec![1; 10_000]).unwrap();
        let usage = of(home.path()).unwrap();
        assert_eq!(usage.entries, 2);
        assert!(usage.bytes >= 10_000, "{usage:?}");
        assert_eq!(of(&home.path().join("none")).unwrap(), Usage::default());
    }
}
