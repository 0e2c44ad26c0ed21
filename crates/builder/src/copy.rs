//! COPY (contract 5.3): files of an uploaded archive go into the tree.
//!
//! The archive is unpacked beside the tree, and what is meant of it is copied into the merged view of the layers. Names of the tree
//! are looked up inside it, so that a link in an image leads no copy out of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dormouse_rootfs::confined::{Owner, Root, absolute};
use dormouse_rootfs::unpack::{Options, Whiteouts, unpack};
use dormouse_rootfs::users::Users;
use flate2::read::MultiGzDecoder;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, futimens, mkdirat, openat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::cache::Draft;
use crate::context::Context;
use crate::error::Failure;
use crate::job::{Job, Stack};
use crate::steps::plain_prefix;
use crate::user;

/// What a COPY means.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) owner: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) archive: PathBuf,
}

/// Carries it out; the changes are in the draft.
pub(crate) async fn copy(job: &Job, stack: &Stack, draft: &Draft, context: &Context, copy: Copy) -> Result<(), Failure> {
    let limits = Options {
        whiteouts: Whiteouts::Ignore,
        max_bytes: u64::from(job.resources.disk_mib) << 20,
        max_entries: job.shared.config.limits.upload_entries,
        strict: true,
    };
    let (files, context) = (draft.files(), context.clone());
    stack
        .in_merged(draft, move |root| {
            let archive = match File::open(&copy.archive) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Failure::new("the files of the step were not uploaded"));
                }
                other => other?,
            };
            unpack(MultiGzDecoder::new(io::BufReader::new(archive)), &files, &limits)
                .map_err(|error| Failure::of("the uploaded files cannot be used", &error))?;
            place(root, &files, &context, &copy)
        })
        .await
}

/// From the unpacked archive into the tree.
fn place(root: &Path, files: &Path, context: &Context, copy: &Copy) -> Result<(), Failure> {
    let root = Root::open(root)?;
    let users = Users::of(&root)?;
    let user = users.user(&context.user);
    let owner_text = copy.owner.as_deref().unwrap_or(&context.user);
    let owner = users
        .owner(owner_text)
        .ok_or_else(|| Failure::new(format!("the owner '{owner_text}' does not exist")))?;
    let prefix = plain_prefix(&copy.source);
    let source = files.join(&prefix);
    let kind = fs::symlink_metadata(&source)
        .map_err(|_| Failure::new(format!("'{}' is not among the uploaded files", copy.source)))?
        .file_type();
    let destination = absolute(&user::base(context, user.as_ref()), Path::new(&copy.destination));
    let into_directory = copy.destination.ends_with('/') || copy.destination.ends_with("/.") || copy.destination == ".";
    let refused = |error: io::Error| {
        Failure::of(
            &format!("'{}' cannot be copied to {}", copy.source, destination.display()),
            &error,
        )
    };
    let placer = Placer { owner, mode: copy.mode };
    if kind.is_dir() {
        let to = root.dir_or_make(&destination, owner).map_err(refused)?;
        return placer.contents(&source, &to).map_err(refused);
    }
    let name = source.file_name().unwrap_or_default().to_owned();
    let (directory, name) = if into_directory || root.is_dir(&destination) {
        (destination.clone(), name)
    } else {
        let name = destination.file_name().map(OsStr::to_owned).unwrap_or(name);
        (destination.parent().unwrap_or(Path::new("/")).to_owned(), name)
    };
    let to = root.dir_or_make(&directory, owner).map_err(refused)?;
    placer.one(&source, &to, &name).map_err(refused)
}

struct Placer {
    owner: Owner,
    mode: Option<u32>,
}

impl Placer {
    /// Merges a directory's content into another.
    fn contents(&self, from: &Path, to: &OwnedFd) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            self.one(&entry.path(), to, &entry.file_name())?;
        }
        Ok(())
    }

    /// Copies one entry under a name. Of what is there already, only a directory stays, for a directory.
    fn one(&self, from: &Path, to: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let metadata = fs::symlink_metadata(from)?;
        let kind = metadata.file_type();
        let mode = self.mode.unwrap_or(metadata.mode() & 0o7777);
        let (uid, gid) = (Some(Uid::from_raw(self.owner.uid)), Some(Gid::from_raw(self.owner.gid)));
        let time = Timespec {
            tv_sec: metadata.mtime(),
            tv_nsec: metadata.mtime_nsec(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        if kind.is_dir() {
            let there = statat(to, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
            if there != Ok(FileType::Directory) {
                remove(to, name)?;
                mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            }
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = openat(to, name, flags, Mode::empty())?;
            self.contents(from, &directory)?;
            chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            chmodat(to, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            return Ok(());
        }
        remove(to, name)?;
        if kind.is_symlink() {
            symlinkat(fs::read_link(from)?, to, name)?;
            chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            return Ok(utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)?);
        }
        if !kind.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is neither file, directory nor link", name.display()),
            ));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(to, name, flags, Mode::from_raw_mode(0o600))?);
        io::copy(&mut File::open(from)?, &mut file)?;
        chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        chmodat(to, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        Ok(futimens(&file, &times)?)
    }
}

/// Makes room for a new entry. A directory that is not empty is not given up for a file: that is a mistake in the template.
fn remove(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Place {
        home: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let place = Self {
                home: tempfile::tempdir().unwrap(),
            };
            for dir in ["root/etc", "root/home/user", "root/opt/there", "files/d/sub", "outside"] {
                fs::create_dir_all(place.home.path().join(dir)).unwrap();
            }
            let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            let passwd = format!("user:x:{uid}:{gid}::/home/user:/bin/bash\n");
            fs::write(place.path("root/etc/passwd"), passwd).unwrap();
            fs::write(place.path("files/f.txt"), "f").unwrap();
            fs::write(place.path("files/d/a"), "a").unwrap();
            fs::write(place.path("files/d/sub/b"), "b").unwrap();
            symlink("/no/where", place.path("files/d/link")).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.home.path().join(name)
        }

        fn copy(&self, source: &str, destination: &str, mode: Option<u32>, workdir: Option<&str>) -> Result<(), String> {
            let context = Context {
                user: "user".to_owned(),
                workdir: workdir.map(str::to_owned),
                ..Context::default()
            };
            let copy = Copy {
                source: source.to_owned(),
                destination: destination.to_owned(),
                owner: None,
                mode,
                archive: PathBuf::new(),
            };
            place(&self.path("root"), &self.path("files"), &context, &copy).map_err(|failure| failure.message)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path("root").join(name)).unwrap()
        }
    }

    #[test]
    fn a_file_goes_where_cp_would_put_it() {
        for (destination, workdir, expected) in [
            ("/new/name.txt", None, "new/name.txt"),
            ("/new/", None, "new/f.txt"),
            ("/opt/there", None, "opt/there/f.txt"),
            ("x", None, "home/user/x"),
            (".", None, "home/user/f.txt"),
            ("./", Some("/srv"), "srv/f.txt"),
            ("a/b", Some("/srv"), "srv/a/b"),
        ] {
            let place = Place::new();
            place.copy("f.txt", destination, None, workdir).unwrap();
            assert_eq!(place.read(expected), "f", "{destination}");
        }
    }

    #[test]
    fn a_directory_gives_its_content() {
        for source in ["d", "d/*", "./d/", "d/**/*.x"] {
            let place = Place::new();
            fs::write(place.path("root/opt/there/kept"), "kept").unwrap();
            place.copy(source, "/opt/there", Some(0o700), None).unwrap();
            assert_eq!(place.read("opt/there/sub/b"), "b");
            assert_eq!(place.read("opt/there/kept"), "kept");
            assert_eq!(
                fs::read_link(place.path("root/opt/there/link")).unwrap(),
                Path::new("/no/where")
            );
            let mode = |name: &str| fs::metadata(place.path(name)).unwrap().mode() & 0o7777;
            assert_eq!((mode("root/opt/there/sub"), mode("root/opt/there/a")), (0o700, 0o700));
        }
    }

    #[test]
    fn links_of_the_tree_lead_no_copy_out_of_it() {
        let place = Place::new();
        let outside = place.path("outside");
        symlink(&outside, place.path("root/absolute")).unwrap();
        symlink("../outside", place.path("root/relative")).unwrap();
        symlink(outside.join("secret"), place.path("root/opt/f.txt")).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        let _ = place.copy("f.txt", "/absolute/x", None, None);
        let _ = place.copy("d", "/relative", None, None);
        let _ = place.copy("f.txt", "../../outside/x", None, None);
        place.copy("f.txt", "/opt/", None, None).unwrap();
        assert_eq!(place.read("opt/f.txt"), "f");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    }

    #[test]
    fn what_cannot_be_copied_is_said() {
        let place = Place::new();
        let missing = place.copy("nothing", "/x", None, None).unwrap_err();
        assert_eq!(missing, "'nothing' is not among the uploaded files");
        fs::create_dir(place.path("root/opt/there/f.txt")).unwrap();
        fs::write(place.path("root/opt/there/f.txt/in"), "").unwrap();
        assert!(place.copy("f.txt", "/opt/there/", None, None).is_err());
        fs::write(place.path("root/opt/file"), "").unwrap();
        assert!(place.copy("d", "/opt/file", None, None).is_err());
    }
}
