//! One file as clients see it (contract 3.6, `EntryInfo`).

use std::fs::{FileType as StdFileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use buffa_types::google::protobuf::Timestamp;
use dormouse_agent_proto::rpc::filesystem::{EntryInfo, FileType};

use super::metadata;
use crate::users::Accounts;

const PERMISSION_BITS: u32 = 0o777;

/// Looks at `path` itself; of a link, type and mode are those of what it leads to.
pub(crate) fn entry_info(path: &Path, accounts: &Accounts) -> io::Result<EntryInfo> {
    let own = std::fs::symlink_metadata(path)?;
    let link = own.file_type().is_symlink();
    // A link that leads nowhere has neither.
    let meant = if link {
        std::fs::metadata(path).ok()
    } else {
        Some(own.clone())
    };
    let target = link.then(|| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(EntryInfo {
        name: name.to_string_lossy().into_owned(),
        r#type: meant.as_ref().map_or(FileType::FILE_TYPE_UNSPECIFIED, file_type).into(),
        path: path.to_string_lossy().into_owned(),
        size: i64::try_from(own.size()).unwrap_or(i64::MAX),
        mode: meant.map_or(0, |meant| meant.mode() & PERMISSION_BITS),
        permissions: permissions(own.file_type(), own.mode()),
        owner: accounts.user_name(own.uid()),
        group: accounts.group_name(own.gid()),
        modified_time: timestamp(&own).into(),
        symlink_target: target.map(|target| target.to_string_lossy().into_owned()),
        metadata: metadata::read(path).into_iter().collect(),
        is_symlink: link,
        ..EntryInfo::default()
    })
}

fn file_type(metadata: &Metadata) -> FileType {
    if metadata.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else if metadata.is_file() {
        FileType::FILE_TYPE_FILE
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

fn timestamp(metadata: &Metadata) -> Timestamp {
    Timestamp {
        seconds: metadata.mtime(),
        nanos: i32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        ..Timestamp::default()
    }
}

/// The notation of the original implementation: like that of `ls`, but with a letter for every kind and special bit
/// in front, and none of them inside.
fn permissions(kind: StdFileType, mode: u32) -> String {
    let mut text = String::with_capacity(12);
    for (holds, letter) in [
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'L'),
        (kind.is_block_device() || kind.is_char_device(), 'D'),
        (kind.is_fifo(), 'p'),
        (kind.is_socket(), 'S'),
        (mode & 0o4000 != 0, 'u'),
        (mode & 0o2000 != 0, 'g'),
        (kind.is_char_device(), 'c'),
        (mode & 0o1000 != 0, 't'),
    ] {
        if holds {
            text.push(letter);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for (bit, letter) in (0..9).rev().zip("rwxrwxrwx".chars()) {
        text.push(if mode & (1 << bit) != 0 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn look(path: &Path) -> EntryInfo {
        entry_info(path, &Accounts::default()).expect("exists")
    }

    #[test]
    fn describes_files_and_directories() {
        let root = tempfile::tempdir().expect("temporary directory");
        let file = root.path().join("a");
        std::fs::write(&file, "four").expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4754)).expect("changed");
        let entry = look(&file);
        assert_eq!((entry.name.as_str(), entry.size, entry.mode), ("a", 4, 0o754));
        assert_eq!(entry.permissions, "urwxr-xr--");
        assert_eq!(entry.r#type, FileType::FILE_TYPE_FILE);
        assert!(!entry.is_symlink && entry.symlink_target.is_none());
        assert_eq!(look(Path::new("/tmp")).permissions, "dtrwxrwxrwx");
        assert_eq!(look(Path::new("/dev/null")).permissions, "Dcrw-rw-rw-");
        assert_eq!(look(Path::new("/")).name, "/");
    }

    #[test]
    fn links_show_what_they_lead_to() {
        let root = tempfile::tempdir().expect("temporary directory");
        let real = root.path().canonicalize().expect("exists");
        symlink(&real, root.path().join("good")).expect("linked");
        symlink("nowhere", root.path().join("broken")).expect("linked");
        let good = look(&root.path().join("good"));
        assert_eq!(good.r#type, FileType::FILE_TYPE_DIRECTORY);
        assert_eq!(good.symlink_target.as_deref(), real.to_str());
        assert_eq!((good.permissions.as_str(), good.is_symlink), ("Lrwxrwxrwx", true));
        let broken = look(&root.path().join("broken"));
        assert_eq!((broken.mode, broken.is_symlink), (0, true));
        assert_eq!(broken.r#type, FileType::FILE_TYPE_UNSPECIFIED);
        assert_eq!(broken.symlink_target.as_deref(), root.path().join("broken").to_str());
    }
}
