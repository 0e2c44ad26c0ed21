//! Files of the context for a COPY: which they are, what names them, and their archive (contract 5.1 step 2).

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use globset::GlobBuilder;
use sha2::{Digest as _, Sha256};

use super::ignore::Ignored;
use crate::data_dir::hex;

/// The files that a COPY takes, relative to the context, in the order of their names.
///
/// # Errors
/// The source leads out of the context, or there is nothing.
pub(crate) fn files(context: &Path, ignored: &Ignored, source: &str) -> anyhow::Result<Vec<PathBuf>> {
    // A leading slash means the context's top.
    let source_path = Path::new(source.trim_start_matches('/'));
    if source_path.components().any(|part| matches!(part, Component::ParentDir)) {
        bail!("COPY {source}: the source is outside of the context {}", context.display());
    }
    let pattern: PathBuf = source_path
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect();
    let text = pattern.to_string_lossy();
    let mut found = Vec::new();
    if text.contains(['*', '?', '[']) {
        let glob = GlobBuilder::new(&text)
            .literal_separator(true)
            .build()
            .with_context(|| format!("COPY {source}: the pattern is malformed"))?
            .compile_matcher();
        let mut all = Vec::new();
        walk(context, Path::new(""), &Ignored::default(), &mut all)?;
        for path in all.iter().filter(|path| glob.is_match(path)) {
            walk(context, path, ignored, &mut found)?;
        }
    } else {
        walk(context, &pattern, ignored, &mut found)?;
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        bail!("COPY {source}: there is nothing of that name in {}", context.display());
    }
    Ok(found)
}

/// A path and what is below it.
fn walk(context: &Path, path: &Path, ignored: &Ignored, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let whole = context.join(path);
    let metadata = match fs::symlink_metadata(&whole) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("Cannot read {}", whole.display()))?,
    };
    if path != Path::new("") && !ignored.leaves_out(path) {
        found.push(path.to_owned());
    }
    if metadata.is_dir() {
        let entries = fs::read_dir(&whole).with_context(|| format!("Cannot list {}", whole.display()))?;
        for entry in entries {
            // Also below what is left out: a later pattern may take something back.
            walk(context, &path.join(entry?.file_name()), ignored, found)?;
        }
    }
    Ok(())
}

/// Names the files and what they are copied to, so that the same files are brought only once.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn hash(context: &Path, files: &[PathBuf], source: &str, destination: &str) -> anyhow::Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(format!("COPY {source} {destination}"));
    for path in files {
        let whole = context.join(path);
        let failed = || format!("Cannot read {}", whole.display());
        let metadata = fs::symlink_metadata(&whole).with_context(failed)?;
        hasher.update(path.to_string_lossy().as_bytes());
        hasher.update(format!("\0{:o}\0", metadata.mode()));
        if metadata.is_symlink() {
            hasher.update(fs::read_link(&whole).with_context(failed)?.to_string_lossy().as_bytes());
        } else if metadata.is_file() {
            hasher.update(format!("{}\0", metadata.len()));
            let mut file = File::open(&whole).with_context(failed)?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = file.read(&mut buffer).with_context(failed)?;
                if length == 0 {
                    break;
                }
                hasher.update(&buffer[..length]);
            }
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// Writes the archive of the files.
///
/// # Errors
/// A file cannot be read, or the archive not written.
pub(crate) fn write(context: &Path, files: &[PathBuf], into: impl Write) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(into, Compression::fast()));
    archive.follow_symlinks(false);
    for path in files {
        let whole = context.join(path);
        let failed = || format!("Cannot pack {}", whole.display());
        let metadata = fs::symlink_metadata(&whole).with_context(failed)?;
        if metadata.is_dir() {
            archive.append_dir(path, &whole).with_context(failed)?;
        } else if metadata.is_file() || metadata.is_symlink() {
            archive.append_path_with_name(&whole, path).with_context(failed)?;
        } else {
            bail!("{} is neither file, directory nor link", whole.display());
        }
    }
    archive.into_inner()?.finish()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for dir in ["src/deep", "skip"] {
            fs::create_dir_all(home.path().join(dir)).unwrap();
        }
        for file in ["a.txt", "b.txt", "src/main.py", "src/deep/x", "skip/y"] {
            fs::write(home.path().join(file), file).unwrap();
        }
        fs::write(home.path().join(".dockerignore"), "skip\n").unwrap();
        home
    }

    fn names(home: &Path, source: &str) -> Vec<String> {
        let found = files(home, &Ignored::of(home).unwrap(), source).unwrap();
        found.iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn sources_are_files_directories_and_patterns() {
        let home = context();
        assert_eq!(names(home.path(), "a.txt"), ["a.txt"]);
        assert_eq!(names(home.path(), "*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(names(home.path(), "./src/"), ["src", "src/deep", "src/deep/x", "src/main.py"]);
        assert_eq!(names(home.path(), "src/*"), ["src/deep", "src/deep/x", "src/main.py"]);
        let all = names(home.path(), ".");
        assert!(
            all.contains(&"a.txt".to_owned()) && !all.iter().any(|name| name.starts_with("skip")),
            "{all:?}"
        );
        let ignored = Ignored::of(home.path()).unwrap();
        for source in ["../x", "nothing", "skip"] {
            assert!(files(home.path(), &ignored, source).is_err(), "{source}");
        }
    }

    #[test]
    fn the_hash_follows_content_and_meaning() {
        let home = context();
        let found = files(home.path(), &Ignored::default(), "a.txt").unwrap();
        let one = hash(home.path(), &found, "a.txt", "/x").unwrap();
        assert_eq!(one.len(), 64);
        assert_ne!(one, hash(home.path(), &found, "a.txt", "/y").unwrap());
        fs::write(home.path().join("a.txt"), "changed").unwrap();
        assert_ne!(one, hash(home.path(), &found, "a.txt", "/x").unwrap());
    }

    #[test]
    fn the_archive_holds_the_files_under_their_names() {
        let home = context();
        let found = files(home.path(), &Ignored::default(), "src").unwrap();
        let mut bytes = Vec::new();
        write(home.path(), &found, &mut bytes).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&*bytes));
        let mut names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .trim_end_matches('/')
                    .to_owned()
            })
            .collect();
        names.sort();
        assert_eq!(names, ["src", "src/deep", "src/deep/x", "src/main.py"]);
    }
}
