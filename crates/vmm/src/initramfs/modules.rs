//! Finds kernel modules, with what they depend on, in a tree as a kernel package installs it
//! (`lib/modules/<release>`).
//!
//! `modules.dep` is made when the package is installed, so an unpacked package has none. Each module names what it
//! depends on in its `.modinfo` section.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The module itself, unpacked.
    pub content: Vec<u8>,
}

impl Module {
    /// The name of its file.
    pub fn file_name(&self) -> String {
        format!("{}.ko", self.name)
    }
}

/// Why modules cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A module is packed in a way that is not supported, or `xz` failed.
    #[error("cannot unpack {0} (modules are plain or packed with xz, and the program xz is needed)")]
    Unpack(PathBuf),
    /// A module that another one needs is neither there nor built in.
    #[error("the module {needed} is needed by {by}, but it is not in the kernel's tree")]
    Missing {
        /// The module that is missing.
        needed: String,
        /// What needs it.
        by: String,
    },
}

/// The modules `wanted` and all that they depend on, dependencies first. `tree` is `lib/modules/<release>`.
///
/// A module that is wanted and not in the tree is taken as built into the kernel.
///
/// # Errors
/// [`ModuleError`] when the tree cannot be read.
pub fn resolve(tree: &Path, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
    let mut files = HashMap::new();
    collect(&tree.join("kernel"), &mut files)?;
    let built_in = built_in(tree)?;
    let mut resolver = Resolver {
        files,
        built_in,
        seen: HashSet::new(),
        modules: Vec::new(),
    };
    for name in wanted {
        resolver.add(name, None)?;
    }
    Ok(resolver.modules)
}

struct Resolver {
    files: HashMap<String, PathBuf>,
    built_in: HashSet<String>,
    seen: HashSet<String>,
    modules: Vec<Module>,
}

impl Resolver {
    fn add(&mut self, name: &str, by: Option<&str>) -> Result<(), ModuleError> {
        if self.seen.contains(name) {
            return Ok(());
        }
        self.seen.insert(name.to_owned());
        let Some(path) = self.files.get(name).cloned() else {
            return match by {
                Some(by) if !self.built_in.contains(name) => Err(ModuleError::Missing {
                    needed: name.to_owned(),
                    by: by.to_owned(),
                }),
                _ => Ok(()),
            };
        };
        let content = read(&path)?;
        for needed in depends(&content) {
            self.add(&needed, Some(name))?;
        }
        self.modules.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }
}

/// A module's name from its file's: `virtio-rng.ko.xz` is `virtio_rng`.
fn module_name(file: &str) -> Option<String> {
    let (stem, packed) = file.split_once(".ko")?;
    matches!(packed, "" | ".xz").then(|| stem.replace('-', "_"))
}

fn collect(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<(), ModuleError> {
    let failed = |source| ModuleError::Read {
        path: directory.to_owned(),
        source,
    };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// Names of what is built into the kernel. A package may lack the list.
fn built_in(tree: &Path) -> Result<HashSet<String>, ModuleError> {
    let path = tree.join("modules.builtin");
    match fs::read_to_string(&path) {
        Ok(list) => Ok(list
            .lines()
            .filter_map(|line| module_name(line.rsplit('/').next()?))
            .collect()),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(source) => Err(ModuleError::Read { path, source }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ModuleError> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz")
            .arg("-dc")
            .arg(path)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        return match output {
            Ok(output) if output.status.success() => Ok(output.stdout),
            _ => Err(ModuleError::Unpack(path.to_owned())),
        };
    }
    fs::read(path).map_err(|source| ModuleError::Read {
        path: path.to_owned(),
        source,
    })
}

/// What a module says that it needs: the strings `depends=a,b` in its `.modinfo` section, which no other section has
/// between NULs.
fn depends(content: &[u8]) -> Vec<String> {
    let marker = b"\0depends=";
    let Some(at) = content.windows(marker.len()).position(|window| window == marker) else {
        return Vec::new();
    };
    let value = &content[at + marker.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let names = String::from_utf8_lossy(&value[..end]);
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &str)], built_in: &str) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        for (path, depends) in modules {
            let path = tree.path().join("kernel").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("\x7fELF...\0license=GPL\0depends={depends}\0name=x\0")).unwrap();
        }
        fs::create_dir_all(tree.path().join("kernel")).unwrap();
        fs::write(tree.path().join("modules.builtin"), built_in).unwrap();
        tree
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let tree = tree(
            &[
                ("d/virtio-rng.ko", "virtio"),
                ("d/virtio.ko", "virtio_ring"),
                ("v/virtio_ring.ko", ""),
                ("d/blk.ko", "virtio"),
            ],
            "",
        );
        let modules = resolve(tree.path(), &["virtio_rng", "blk"]).unwrap();
        assert_eq!(names(&modules), ["virtio_ring", "virtio", "virtio_rng", "blk"]);
        assert_eq!(modules[2].file_name(), "virtio_rng.ko");
    }

    #[test]
    fn what_is_built_in_is_not_loaded_and_what_is_missing_is_named() {
        let tree = tree(&[("a.ko", "virtio"), ("b.ko", "gone")], "kernel/drivers/virtio/virtio.ko\n");
        assert_eq!(names(&resolve(tree.path(), &["a", "overlay"]).unwrap()), ["a"]);
        let error = resolve(tree.path(), &["b"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the module gone is needed by b, but it is not in the kernel's tree"
        );
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let tree = tree(&[("a.ko", "")], "");
        let packed = Command::new("xz").arg(tree.path().join("kernel/a.ko")).status();
        if !packed.is_ok_and(|status| status.success()) {
            eprintln!("skipped: xz is not installed");
            return;
        }
        let modules = resolve(tree.path(), &["a"]).unwrap();
        assert!(modules[0].content.starts_with(b"\x7fELF"));
    }
}
