//! Users and groups, read from `/etc/passwd` and `/etc/group`.
//!
//! The agent is linked statically, so it cannot ask the C library, whose answer may need shared objects that the
//! sandbox's image does not have. The files are read again when they change: images add users while they run.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
}

/// One line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub name: String,
    pub gid: u32,
    pub members: Vec<String>,
}

/// A user name that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown user {0}")]
pub(crate) struct UnknownUser(pub String);

/// Both files at one moment.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

impl Accounts {
    /// Reads the texts of both files. Lines that make no sense are left out, as the C library does.
    pub(crate) fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd.lines().filter_map(parse_user).collect(),
            groups: group.lines().filter_map(parse_group).collect(),
        }
    }

    /// Finds a user by name. Root is known even to an image without users.
    pub(crate) fn user(&self, name: &str) -> Result<User, UnknownUser> {
        match self.users.iter().find(|user| user.name == name) {
            Some(user) => Ok(user.clone()),
            None if name == "root" => Ok(root()),
            None => Err(UnknownUser(name.to_owned())),
        }
    }

    /// Finds a user by number.
    pub(crate) fn user_by_id(&self, uid: u32) -> Option<&User> {
        self.users.iter().find(|user| user.uid == uid)
    }

    /// The name of a user, or its number where it has none.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        match self.user_by_id(uid) {
            Some(user) => user.name.clone(),
            None if uid == 0 => "root".to_owned(),
            None => uid.to_string(),
        }
    }

    /// The name of a group, or its number where it has none.
    pub(crate) fn group_name(&self, gid: u32) -> String {
        match self.groups.iter().find(|group| group.gid == gid) {
            Some(group) => group.name.clone(),
            None if gid == 0 => "root".to_owned(),
            None => gid.to_string(),
        }
    }

    /// The number of a group.
    pub(crate) fn group_id(&self, name: &str) -> Option<u32> {
        self.groups.iter().find(|group| group.name == name).map(|group| group.gid)
    }

    /// All groups of a user, its own first, each once.
    pub(crate) fn groups_of(&self, user: &User) -> Vec<u32> {
        let mut ids = vec![user.gid];
        for group in &self.groups {
            if group.members.contains(&user.name) && !ids.contains(&group.gid) {
                ids.push(group.gid);
            }
        }
        ids
    }
}

fn root() -> User {
    User {
        name: "root".into(),
        uid: 0,
        gid: 0,
        home: "/root".into(),
        shell: "/bin/sh".into(),
    }
}

fn parse_user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _password, uid, gid, _comment, home, shell] = fields[..] else {
        return None;
    };
    if name.is_empty() || name.starts_with(['#', '+', '-']) {
        return None;
    }
    Some(User {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: if home.is_empty() { "/".to_owned() } else { home.to_owned() },
        shell: if shell.is_empty() {
            "/bin/sh".to_owned()
        } else {
            shell.to_owned()
        },
    })
}

fn parse_group(line: &str) -> Option<Group> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _password, gid, members] = fields[..] else {
        return None;
    };
    if name.is_empty() || name.starts_with(['#', '+', '-']) {
        return None;
    }
    Some(Group {
        name: name.to_owned(),
        gid: gid.parse().ok()?,
        members: members
            .split(',')
            .filter(|member| !member.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// The current accounts of the sandbox.
#[derive(Debug)]
pub(crate) struct UserDatabase {
    passwd: PathBuf,
    group: PathBuf,
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    versions: [Option<Version>; 2],
    accounts: Arc<Accounts>,
}

/// Changes whenever a file does: tools replace these files, or at least change their size or time.
type Version = (u64, u64, i64, i64);

impl UserDatabase {
    /// Reads `passwd` and `group` in `etc`.
    pub(crate) fn new(etc: &Path) -> Self {
        Self {
            passwd: etc.join("passwd"),
            group: etc.join("group"),
            known: Mutex::new(None),
        }
    }

    /// The accounts as the files say now. A missing file is an empty one.
    pub(crate) fn accounts(&self) -> Arc<Accounts> {
        let versions = [version(&self.passwd), version(&self.group)];
        let mut known = self.lock();
        if let Some(known) = known.as_ref().filter(|known| known.versions == versions) {
            return Arc::clone(&known.accounts);
        }
        let text = |path: &Path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let passwd = text(&self.passwd).unwrap_or_default();
        let group = text(&self.group).unwrap_or_default();
        let accounts = Arc::new(Accounts::parse(&passwd, &group));
        *known = Some(Known {
            versions,
            accounts: Arc::clone(&accounts),
        });
        accounts
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version(path: &Path) -> Option<Version> {
    let of = |meta: Metadata| (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
    let meta: io::Result<Metadata> = std::fs::metadata(path);
    meta.ok().map(of)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        broken line\n\
        nonumber:x:many:0::/:/bin/sh\n\
        user:x:1000:1000:,,,:/home/user:/bin/bash\n\
        bare:x:7:7:::\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:user,other\nuser:x:1000:user\ndocker:x:999:user\n";

    #[test]
    fn finds_users_and_their_groups() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        let user = accounts.user("user").expect("listed");
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 1000, "/home/user"));
        assert_eq!(accounts.groups_of(&user), [1000, 27, 999]);
        assert_eq!(accounts.user_name(1000), "user");
        assert_eq!(accounts.user_name(4242), "4242");
        assert_eq!(accounts.group_name(27), "sudo");
        assert_eq!(accounts.group_id("docker"), Some(999));
        let bare = accounts.user("bare").expect("listed");
        assert_eq!((bare.home.as_str(), bare.shell.as_str()), ("/", "/bin/sh"));
        assert_eq!(accounts.user("nonumber"), Err(UnknownUser("nonumber".into())));
    }

    #[test]
    fn root_needs_no_file() {
        assert_eq!(Accounts::default().user("root").expect("built in").uid, 0);
        assert_eq!(Accounts::default().user_name(0), "root");
    }

    #[test]
    fn sees_changes() {
        let etc = tempfile::tempdir().expect("temporary directory");
        let database = UserDatabase::new(etc.path());
        assert!(database.accounts().user("user").is_err());
        std::fs::write(etc.path().join("passwd"), PASSWD).expect("writable");
        assert!(database.accounts().user("user").is_ok());
    }

    proptest! {
        #[test]
        fn takes_any_text(passwd in ".*", group in ".*") {
            Accounts::parse(&passwd, &group);
        }

        #[test]
        fn reads_back_what_is_written(name in "[a-z_][a-z0-9_-]{0,8}", uid: u32, gid: u32, home in "/[a-z/]{0,9}") {
            let accounts = Accounts::parse(&format!("{name}:x:{uid}:{gid}:me:{home}:/bin/sh"), "");
            let user = accounts.user(&name).expect("listed");
            prop_assert_eq!((user.uid, user.gid, user.home), (uid, gid, home));
        }
    }
}
