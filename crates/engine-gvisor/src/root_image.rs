//! Root trees as EROFS images.
//!
//! The sandbox's kernel can read its root from an EROFS image instead of a directory. It maps the image into memory, so all sandboxes
//! of a template share the host's page cache; it needs no gofer process and no access to the host's files at all; file owners are those
//! in the image, whatever the host process may be. Measured against a directory: 22 MiB less for every sandbox, file operations
//! as fast or faster.
//!
//! A snapshot names files by their number in the image: it wakes only over the very image over which it was made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{GvisorError, Result};
use crate::layout::Root;

/// The image that belongs to a root tree: its sibling with `.erofs` behind the name.
#[must_use]
pub fn image_of(tree: &Path) -> PathBuf {
    let mut path = tree.as_os_str().to_owned();
    path.push(".erofs");
    path.into()
}

/// Makes an image of a root tree. Blocks, for some seconds with a big tree. `image` appears when it is complete.
///
/// # Errors
/// When `mkfs.erofs` is missing or fails.
pub fn make_image(tree: &Path, image: &Path) -> Result<()> {
    let unfinished = image.with_extension("erofs-new");
    let failed = |message: String| GvisorError::Image {
        tree: tree.to_path_buf(),
        message,
    };
    let output = Command::new("mkfs.erofs")
        // gVisor reads neither tail-packed files nor extended attributes.
        .args(["-Enoinline_data", "-x-1"])
        .arg(&unfinished)
        .arg(tree)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(format!("it cannot be started ({e}); install the package erofs-utils")))?;
    if !output.status.success() {
        // Best effort: the next try overwrites it.
        let _ = fs::remove_file(&unfinished);
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(text.lines().next().unwrap_or("it said nothing").to_owned()));
    }
    fs::File::open(&unfinished)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&unfinished, image))
        .map_err(GvisorError::file("write", image))
}

/// The form in which a boot reads `root`: an image if it is one or has one, or if one can be made.
pub(crate) fn for_boot(root: &Path, make: bool) -> Root {
    let found = existing(root);
    match found {
        Root::Tree(tree) if make => {
            let image = image_of(&tree);
            match make_image(&tree, &image) {
                Ok(()) => Root::Image(image),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "sandboxes read this root through a gofer: more memory for each of them, and slower"
                    );
                    Root::Tree(tree)
                }
            }
        }
        found => found,
    }
}

/// The form in which `root` is there.
pub(crate) fn existing(root: &Path) -> Root {
    if root.is_file() {
        return Root::Image(root.to_path_buf());
    }
    let image = image_of(root);
    if image.is_file() {
        Root::Image(image)
    } else {
        Root::Tree(root.to_path_buf())
    }
}
