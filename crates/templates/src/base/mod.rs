//! The template `base`: Debian with Python, Node.js, git, compilers and the usual tools.
//!
//! ```text
//! <directory>/debian/<recipe>/root      Debian's packages and our settings; minutes, once per recipe
//!                    │ hard links for /usr, copies for the rest
//! <directory>/base/<build id>/root      plus the agent and the host's extra certificates; a second
//!                            /build.json   what the build says about itself; written last
//! ```
//!
//! The build id is computed from everything that goes in, so the same input finds the same build, and a new agent
//! makes a new build beside the old one: sandboxes that sleep in the old one still need its tree. Two processes may
//! call [`ensure`] at once; one builds, the other waits and finds the result.

mod agent;
mod debian;
mod mirror;
mod recipe;
mod settings;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ca::Certificate;
use crate::error::{Error, Result};
use crate::progress::{Progress, Stage, Update};
use crate::tree::{self, Partial};

/// The template's name.
pub const NAME: &str = "base";
/// Who runs commands unless the caller says otherwise.
pub const DEFAULT_USER: &str = "user";
/// Where commands start unless the caller says otherwise.
pub const DEFAULT_WORKDIR: &str = "/home/user";
/// Where the agent's binary is inside the tree.
pub const AGENT_PATH: &str = "/usr/lib/dormouse/agent";
/// Who answers DNS inside: the same link-local address in every sandbox, so that a snapshot can wake anywhere.
pub const NAMESERVER: &str = "169.254.77.1";

/// What a tree and a copy of it take, with room for the packages while they are unpacked.
const NEEDED_BYTES: u64 = 2 << 30;
/// To be raised when [`agent`] changes what it puts into a build.
const BUILD_VERSION: u32 = 1;

/// What to build, and where.
#[derive(Debug, Clone)]
pub struct BaseOptions {
    /// The templates directory; made when missing.
    pub directory: PathBuf,
    /// The agent that runs in every sandbox.
    pub agent: AgentSource,
    /// Whether the agent answers as `sudo` (for engines in which setuid programs gain nothing).
    pub agent_as_sudo: bool,
    /// Certificates to trust besides Debian's; see [`crate::ca`].
    pub extra_cas: Vec<Certificate>,
}

/// Where the agent's binary comes from.
#[derive(Debug, Clone)]
pub enum AgentSource {
    /// A file of the host.
    File(PathBuf),
    /// The binary itself.
    Bytes(Vec<u8>),
}

/// A finished build of the template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootTree {
    /// Names this version; a UUID.
    pub build_id: String,
    /// The root directory of the tree. Nobody may write into it.
    #[serde(skip)]
    pub path: PathBuf,
    /// What every process in a sandbox finds in its environment.
    pub env: BTreeMap<String, String>,
    /// Who runs commands by default.
    pub default_user: String,
    /// Where commands start by default.
    pub workdir: String,
    /// Of all that went in, with the versions of the packages.
    pub digest: String,
    /// Bytes on disk, counted as if nothing was shared with other builds.
    pub size: u64,
}

/// The build for these options: found when it is there, made when it is not.
pub fn ensure(options: &BaseOptions, progress: &dyn Progress) -> Result<RootTree> {
    progress.update(Update::note(Stage::Prepare, "looking for a finished build"));
    let agent = agent::read(&options.agent)?;
    let digest = input_digest(options, &agent);
    let home = options.directory.join(NAME).join(build_id(&digest));
    if let Some(tree) = load(&home)? {
        finished(progress, "already built");
        return Ok(tree);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    fs::create_dir_all(&options.directory).map_err(Error::io("create", &options.directory))?;
    let _lock = lock(&options.directory, progress)?;
    // Whoever held the lock may have built just this.
    if let Some(tree) = load(&home)? {
        finished(progress, "built by another process meanwhile");
        return Ok(tree);
    }
    let built =
        debian_tree(&options.directory, progress).and_then(|debian| build(options, &agent, &digest, &debian, &home, progress));
    built.map_err(|error| match error {
        // The program that ran out of space does not say where; it is always here.
        Error::DiskFull { .. } => Error::DiskFull {
            path: options.directory.clone(),
        },
        other => other,
    })
}

/// All finished builds below a templates directory, in no order.
pub fn list(directory: &Path) -> Result<Vec<RootTree>> {
    let home = directory.join(NAME);
    let entries = match fs::read_dir(&home) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", home)(error)),
    };
    let mut builds = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", &home))?.path();
        builds.extend(load(&path)?);
    }
    Ok(builds)
}

/// Removes a build that no sandbox and no snapshot uses any more.
pub fn remove(directory: &Path, build_id: &str) -> Result<()> {
    let home = directory.join(NAME).join(build_id);
    // Without its manifest it is no build, whatever happens to the rest.
    match fs::remove_file(manifest(&home)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", manifest(&home))(error)),
        _ => {}
    }
    tree::remove(&home)
}

/// Where the tree with Debian's packages is, or will be, below a templates directory.
pub fn debian_root(directory: &Path) -> PathBuf {
    debian_home(directory).join("root")
}

fn debian_home(directory: &Path) -> PathBuf {
    let recipe = recipe::digest().to_hex();
    directory.join("debian").join(&recipe[..16])
}

/// The tree with Debian's packages and our settings, made when missing.
fn debian_tree(directory: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    tree::remove_leftovers(&directory.join("debian"))?;
    let target = debian_home(directory);
    let root = target.join("root");
    if root.exists() {
        return Ok(root);
    }
    check_space(directory)?;
    let mirror = mirror::Mirror::of_host();
    let partial = Partial::create(&target)?;
    let unfinished = partial.path().join("root");
    fs::create_dir(&unfinished).map_err(Error::io("create", &unfinished))?;
    debian::install(&unfinished, &mirror, progress)?;
    progress.update(Update::note(Stage::Customize, "user, settings"));
    settings::apply(&unfinished, &mirror)?;
    progress.update(Update::note(Stage::Commit, "writing the Debian tree to disk"));
    partial.commit()?;
    Ok(root)
}

/// A build from a Debian tree.
fn build(
    options: &BaseOptions,
    agent: &[u8],
    digest: &blake3::Hash,
    debian: &Path,
    home: &Path,
    progress: &dyn Progress,
) -> Result<RootTree> {
    let say = |stage, line| progress.update(Update::note(stage, line));
    tree::remove_leftovers(&options.directory.join(NAME))?;
    let partial = Partial::create(home)?;
    let root = partial.path().join("root");
    say(Stage::Customize, "linking the Debian tree");
    tree::copy_sharing_usr(debian, &root)?;
    say(Stage::Customize, "agent and certificates");
    agent::install(&root, agent, options.agent_as_sudo)?;
    let mut env = agent::trust(&root, &options.extra_cas)?;
    env.insert("LANG".into(), "C.UTF-8".into());

    let tree = RootTree {
        build_id: build_id(digest),
        path: home.join("root"),
        env,
        default_user: DEFAULT_USER.into(),
        workdir: DEFAULT_WORKDIR.into(),
        digest: content_digest(digest, &root)?,
        size: tree::disk_usage(&root)?,
    };
    let text = serde_json::to_vec_pretty(&tree).map_err(|source| Error::Manifest {
        path: manifest(home),
        source,
    })?;
    tree::replace_file(&manifest(partial.path()), &text, 0o644)?;
    say(Stage::Commit, "writing the build to disk");
    partial.commit()?;
    finished(progress, "built");
    Ok(tree)
}

/// The build in `home`, if it is finished.
fn load(home: &Path) -> Result<Option<RootTree>> {
    let path = manifest(home);
    // An unfinished one lives under another name, but has the same layout.
    if home.extension().is_some() {
        return Ok(None);
    }
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut tree: RootTree = serde_json::from_slice(&text).map_err(|source| Error::Manifest { path, source })?;
    tree.path = home.join("root");
    Ok(Some(tree))
}

fn manifest(home: &Path) -> PathBuf {
    home.join("build.json")
}

/// Waits for other builders, saying so.
fn lock(directory: &Path, progress: &dyn Progress) -> Result<File> {
    let path = directory.join(".lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    while let Err(error) = file.try_lock() {
        match error {
            fs::TryLockError::WouldBlock => {
                let line = "another process builds a template; waiting for it";
                progress.update(Update::note(Stage::Prepare, line));
                std::thread::sleep(Duration::from_secs(1));
            }
            fs::TryLockError::Error(source) => return Err(Error::io("lock", path)(source)),
        }
    }
    Ok(file)
}

/// Says at once what would otherwise fail after minutes.
fn check_space(directory: &Path) -> Result<()> {
    let stat = nix::sys::statvfs::statvfs(directory).map_err(|errno| Error::io("inspect", directory)(errno.into()))?;
    if stat.blocks_available() * stat.fragment_size() < NEEDED_BYTES {
        return Err(Error::DiskFull {
            path: directory.to_owned(),
        });
    }
    Ok(())
}

fn finished(progress: &dyn Progress, line: &str) {
    progress.update(Update::note(Stage::Done, line));
}

/// Of all that goes into a build.
fn input_digest(options: &BaseOptions, agent: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(recipe::digest().as_bytes());
    hasher.update(blake3::hash(agent).as_bytes());
    hasher.update(&[u8::from(options.agent_as_sudo)]);
    hasher.update(&BUILD_VERSION.to_le_bytes());
    for certificate in &options.extra_cas {
        hasher.update(certificate.fingerprint().as_bytes());
    }
    hasher.finalize()
}

/// The input plus the versions of the packages that the mirror had on the day.
fn content_digest(input: &blake3::Hash, root: &Path) -> Result<String> {
    let status = root.join("var/lib/dpkg/status");
    let installed = fs::read(&status).map_err(Error::io("read", &status))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(input.as_bytes()).update(&installed);
    Ok(hasher.finalize().to_hex().to_string())
}

/// The API calls builds by UUIDs.
fn build_id(digest: &blake3::Hash) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn options(directory: &Path, agent: &str) -> BaseOptions {
        BaseOptions {
            directory: directory.to_owned(),
            agent: AgentSource::Bytes(agent.into()),
            agent_as_sudo: true,
            extra_cas: Vec::new(),
        }
    }

    fn id(options: &BaseOptions) -> String {
        let agent = agent::read(&options.agent).unwrap();
        build_id(&input_digest(options, &agent))
    }

    #[test]
    fn build_id_is_a_uuid_and_changes_with_the_agent() {
        let home = Path::new("/nowhere");
        let one = id(&options(home, "agent 1"));
        assert_eq!(one, id(&options(home, "agent 1")));
        assert_ne!(one, id(&options(home, "agent 2")));
        assert!(uuid::Uuid::parse_str(&one).is_ok());
    }

    #[test]
    fn finished_build_is_found_without_building() {
        let home = tempfile::tempdir().unwrap();
        let options = options(home.path(), "agent");
        let build = home.path().join(NAME).join(id(&options));
        let tree = RootTree {
            build_id: id(&options),
            path: build.join("root"),
            env: BTreeMap::from([("LANG".into(), "C.UTF-8".into())]),
            default_user: DEFAULT_USER.into(),
            workdir: DEFAULT_WORKDIR.into(),
            digest: "d".into(),
            size: 7,
        };
        fs::create_dir_all(&build).unwrap();
        fs::write(manifest(&build), serde_json::to_vec(&tree).unwrap()).unwrap();
        fs::create_dir_all(home.path().join(NAME).join("x.partial")).unwrap();

        assert_eq!(ensure(&options, &Silent).unwrap(), tree);
        assert_eq!(list(home.path()).unwrap(), [tree]);
    }

    #[test]
    fn damaged_manifest_is_an_error_with_a_hint() {
        let home = tempfile::tempdir().unwrap();
        let options = options(home.path(), "agent");
        let build = home.path().join(NAME).join(id(&options));
        fs::create_dir_all(&build).unwrap();
        fs::write(manifest(&build), "{").unwrap();

        let error = ensure(&options, &Silent).unwrap_err();

        assert!(matches!(error, Error::Manifest { .. }));
        assert!(error.hint().unwrap().contains("build again"));
    }

    #[test]
    fn removed_build_is_gone_and_removing_twice_is_fine() {
        let home = tempfile::tempdir().unwrap();
        let build = home.path().join(NAME).join("b");
        fs::create_dir_all(build.join("root")).unwrap();

        remove(home.path(), "b").unwrap();
        remove(home.path(), "b").unwrap();

        assert!(!build.exists());
    }
}
