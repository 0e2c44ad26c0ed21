//! Archives of files for COPY (contract 5.1 step 2).
//!
//! A client names an archive by a hash that only it can compute, asks for a ticket, and puts the archive where the ticket says. The
//! ticket carries its own proof: whoever has it may write this one archive for some hours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dormouse_store::TeamId;
use jiff::{SignedDuration, Timestamp};
use rand::Rng as _;
use tokio::io::AsyncWriteExt as _;

/// How long a ticket is good.
const GOOD_FOR: SignedDuration = SignedDuration::from_hours(12);

const KEY_BYTES: usize = 32;

/// Where an archive goes, with the proof that its bearer may put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadTicket {
    /// Whose archive.
    pub team: TeamId,
    /// The client's name for it.
    pub hash: String,
    /// Until when the ticket is good, seconds since 1970.
    pub expires: i64,
    /// The proof.
    pub signature: String,
}

/// Why an archive was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The ticket is forged or no longer good.
    #[error("this upload link is not valid, or no longer")]
    BadTicket,
    /// It is bigger than allowed.
    #[error("the archive is bigger than {0} bytes")]
    TooBig(u64),
    /// It could not be written.
    #[error("the archive could not be stored")]
    Files(#[source] io::Error),
}

/// All archives.
#[derive(Debug)]
pub(crate) struct Uploads {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    limit: u64,
}

/// Whether a text is a hash as clients make it: 64 lowercase hexadecimal digits (contract 2.4).
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Uploads {
    /// Opens the directory. The key of the tickets is in it, so that tickets outlive the daemon.
    pub(crate) fn open(dir: PathBuf, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let path = dir.join("key");
        let key = match fs::read(&path).map(<[u8; KEY_BYTES]>::try_from) {
            Ok(Ok(key)) => key,
            _ => {
                let key: [u8; KEY_BYTES] = rand::rng().random();
                write_private(&path, &key)?;
                key
            }
        };
        Ok(Self { dir, key, limit })
    }

    /// Where a complete archive is.
    pub(crate) fn path(&self, team: TeamId, hash: &str) -> PathBuf {
        self.dir.join(team.to_string()).join(hash)
    }

    /// Whether the archive is there. Being asked for keeps it from being removed for a while.
    pub(crate) fn present(&self, team: TeamId, hash: &str) -> bool {
        let path = self.path(team, hash);
        let file = fs::File::open(&path);
        file.is_ok_and(|file| file.set_modified(std::time::SystemTime::now()).is_ok())
    }

    pub(crate) fn ticket(&self, team: TeamId, hash: &str, now: Timestamp) -> UploadTicket {
        let expires = now.saturating_add(GOOD_FOR).unwrap_or(Timestamp::MAX).as_second();
        UploadTicket {
            team,
            hash: hash.to_owned(),
            expires,
            signature: self.sign(team, hash, expires).to_hex().to_string(),
        }
    }

    fn sign(&self, team: TeamId, hash: &str, expires: i64) -> blake3::Hash {
        blake3::keyed_hash(&self.key, format!("{team}/{hash}/{expires}").as_bytes())
    }

    /// Begins to take an archive.
    pub(crate) async fn receive(&self, ticket: &UploadTicket, now: Timestamp) -> Result<Upload, UploadError> {
        let given = blake3::Hash::from_hex(&ticket.signature).map_err(|_| UploadError::BadTicket)?;
        // Compared in constant time by the type.
        let genuine = is_hash(&ticket.hash) && self.sign(ticket.team, &ticket.hash, ticket.expires) == given;
        if !genuine || ticket.expires < now.as_second() {
            return Err(UploadError::BadTicket);
        }
        let path = self.path(ticket.team, &ticket.hash);
        let dir = path.parent().unwrap_or(&self.dir).to_owned();
        tokio::fs::create_dir_all(&dir).await.map_err(UploadError::Files)?;
        let temporary = tempfile_in(&dir);
        let file = tokio::fs::File::create_new(&temporary).await.map_err(UploadError::Files)?;
        Ok(Upload {
            path,
            temporary,
            file,
            written: 0,
            limit: self.limit,
            done: false,
        })
    }

    /// Removes what an upload that was cut off left; at a start.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for team in fs::read_dir(&self.dir)? {
            let team = team?.path();
            if !team.is_dir() {
                continue;
            }
            for entry in fs::read_dir(&team)? {
                let entry = entry?;
                if !entry.file_name().to_str().is_some_and(is_hash) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }
}

fn tempfile_in(dir: &Path) -> PathBuf {
    let number: u64 = rand::rng().random();
    dir.join(format!("part-{number:016x}"))
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// An archive that is being taken. Dropped before [`finish`](Self::finish), it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    path: PathBuf,
    temporary: PathBuf,
    file: tokio::fs::File,
    written: u64,
    limit: u64,
    done: bool,
}

impl Upload {
    /// Takes the next piece.
    ///
    /// # Errors
    /// [`UploadError::TooBig`], or the disk is full.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.written += bytes.len() as u64;
        if self.written > self.limit {
            return Err(UploadError::TooBig(self.limit));
        }
        self.file.write_all(bytes).await.map_err(UploadError::Files)
    }

    /// The archive is complete and has its name from now on.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub async fn finish(mut self) -> Result<(), UploadError> {
        self.file.flush().await.map_err(UploadError::Files)?;
        self.file.sync_all().await.map_err(UploadError::Files)?;
        tokio::fs::rename(&self.temporary, &self.path)
            .await
            .map_err(UploadError::Files)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.done {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn uploads(limit: u64) -> (tempfile::TempDir, Uploads) {
        let home = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(home.path().join("uploads"), limit).unwrap();
        (home, uploads)
    }

    #[tokio::test]
    async fn an_archive_is_there_when_it_is_complete() {
        let (home, uploads) = uploads(100);
        let now = Timestamp::now();
        let ticket = uploads.ticket(TeamId::FIRST, HASH, now);
        let mut upload = uploads.receive(&ticket, now).await.unwrap();
        upload.write(b"abc").await.unwrap();
        assert!(!uploads.present(TeamId::FIRST, HASH));
        upload.finish().await.unwrap();
        assert!(uploads.present(TeamId::FIRST, HASH));
        assert!(!uploads.present(TeamId::random(), HASH));
        // A ticket outlives the daemon.
        let again = Uploads::open(home.path().join("uploads"), 100).unwrap();
        again.receive(&ticket, now).await.unwrap();
    }

    #[tokio::test]
    async fn a_ticket_is_for_one_archive_and_some_hours() {
        let (_home, uploads) = uploads(100);
        let now = Timestamp::now();
        let good = uploads.ticket(TeamId::FIRST, HASH, now);
        let later = now.saturating_add(SignedDuration::from_hours(13)).unwrap();
        assert!(uploads.receive(&good, later).await.is_err());
        let other = UploadTicket {
            hash: HASH.replace('0', "1"),
            ..good.clone()
        };
        assert!(uploads.receive(&other, now).await.is_err());
        let path = UploadTicket {
            hash: "../../x".to_owned(),
            ..good.clone()
        };
        assert!(uploads.receive(&path, now).await.is_err());
        let longer = UploadTicket {
            expires: good.expires + 1,
            ..good
        };
        assert!(uploads.receive(&longer, now).await.is_err());
    }

    #[tokio::test]
    async fn an_archive_that_is_too_big_or_cut_off_leaves_nothing() {
        let (_home, uploads) = uploads(3);
        let now = Timestamp::now();
        let ticket = uploads.ticket(TeamId::FIRST, HASH, now);
        let mut upload = uploads.receive(&ticket, now).await.unwrap();
        assert!(matches!(upload.write(b"abcd").await, Err(UploadError::TooBig(3))));
        drop(upload);
        assert_eq!(fs::read_dir(uploads.dir.join(TeamId::FIRST.to_string())).unwrap().count(), 0);
    }
}
