//! The user database of a tree: `/etc/passwd` and `/etc/group` (passwd(5), group(5)).

use std::io;
use std::path::{Path, PathBuf};

use crate::confined::{Owner, Root};

/// Longest database that is read, bytes.
const LONGEST: u64 = 4 << 20;

/// An entry of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Numbers of the user and of its first group.
    pub owner: Owner,
    /// Home directory.
    pub home: PathBuf,
}

/// The databases, as they were read.
#[derive(Clone, Debug, Default)]
pub struct Users {
    passwd: String,
    group: String,
}

impl Users {
    /// Reads the databases of a tree; a missing one counts as empty.
    ///
    /// # Errors
    /// One of them is no regular file, or far too long.
    pub fn of(root: &Root) -> io::Result<Self> {
        let read = |path: &str| {
            root.read(Path::new(path), LONGEST)
                .map(|text| text.map_or_else(String::new, |text| String::from_utf8_lossy(&text).into_owned()))
        };
        Ok(Self {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
        })
    }

    /// The user of that name, or of that number if no name is like it.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<User> {
        let users = || self.passwd.lines().filter_map(parse_user);
        users().find(|user| user.name == name).or_else(|| {
            let uid: u32 = name.parse().ok()?;
            users().find(|user| user.owner.uid == uid)
        })
    }

    /// The number of a group, given by name or number.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<u32> {
        let groups = self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
            Some((name, gid.parse::<u32>().ok()?))
        });
        let mut groups = groups;
        groups
            .find(|(known, _)| *known == name)
            .map(|(_, gid)| gid)
            .or_else(|| name.parse().ok())
    }

    /// What `user` or `user:group` means as the owner of files, as chown(1) reads it; both may be numbers that the databases do not
    /// know. A user without a group stands for the group of the same name, or else the user's first group.
    #[must_use]
    pub fn owner(&self, text: &str) -> Option<Owner> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let known = self.user(user);
        let uid = known.as_ref().map(|user| user.owner.uid).or_else(|| user.parse().ok())?;
        let gid = match group {
            Some(group) => self.group(group)?,
            None => known.map(|user| user.owner.gid).or_else(|| self.group(user)).unwrap_or(uid),
        };
        Some(Owner { uid, gid })
    }
}

fn parse_user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else {
        return None;
    };
    Some(User {
        name: name.to_owned(),
        owner: Owner {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        },
        home: if home.is_empty() { "/".into() } else { home.into() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users {
            passwd: "root:x:0:0:root:/root:/bin/bash\nnonsense\nuser:x:1000:1001::/home/user:/bin/bash\n".into(),
            group: "root:x:0:\nwww:x:33:user\n".into(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let users = users();
        assert_eq!(users.user("user").unwrap().owner, Owner { uid: 1000, gid: 1001 });
        assert_eq!(users.user("1000").unwrap().name, "user");
        assert_eq!(users.user("nobody"), None);
        assert_eq!(users.user("nonsense"), None);
    }

    #[test]
    fn owners_are_read_as_chown_does() {
        let users = users();
        for (text, owner) in [
            ("user", Some((1000, 1001))),
            ("user:www", Some((1000, 33))),
            ("user:", Some((1000, 1001))),
            ("7:8", Some((7, 8))),
            ("7", Some((7, 7))),
            ("user:nogroup", None),
            ("nobody", None),
            ("", None),
        ] {
            assert_eq!(users.owner(text), owner.map(|(uid, gid)| Owner { uid, gid }), "{text}");
        }
    }
}
