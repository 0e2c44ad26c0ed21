//! The "newc" archive format of cpio (the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{self, Write};

/// An archive that is being written. Entries of directories come before what is in them.
pub struct Archive<'a> {
    to: &'a mut dyn Write,
    next_inode: u32,
}

impl std::fmt::Debug for Archive<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("next_inode", &self.next_inode)
            .finish_non_exhaustive()
    }
}

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const END: &str = "TRAILER!!!";

impl<'a> Archive<'a> {
    /// Starts an archive.
    pub fn new(to: &'a mut dyn Write) -> Self {
        Self { to, next_inode: 1 }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// Of the writer.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[], (0, 0))
    }

    /// Adds a file with the permissions `mode`.
    ///
    /// # Errors
    /// Of the writer, or when the file is too large for the format.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | mode, content, (0, 0))
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// Of the writer.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER | 0o600, &[], (major, minor))
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Of the writer.
    pub fn finish(mut self) -> io::Result<()> {
        self.entry(END, 0, &[], (0, 0))?;
        self.to.flush()
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], (major, minor): (u32, u32)) -> io::Result<()> {
        let size =
            u32::try_from(content.len()).map_err(|_| io::Error::other(format!("{path} is too large for a cpio archive")))?;
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        let inode = if path == END { 0 } else { self.next_inode };
        self.next_inode += 1;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        self.to.write_all(b"070701")?;
        // inode, mode, uid, gid, links, mtime, size, device, device of a special file, size of the name, checksum
        for field in [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(path.as_bytes())?;
        self.to.write_all(&[0])?;
        self.pad(110 + path.len() + 1)?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert!(text.contains("init\0\0hello\x00\x00\x00070701"));
        assert!(text.trim_end_matches('\0').ends_with(END));
    }

    #[test]
    fn cpio_lists_what_was_written() {
        use std::process::{Command, Stdio};
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            eprintln!("skipped: cpio is not installed");
            return;
        };
        let mut input = cpio.stdin.take().unwrap();
        let mut archive = Archive::new(&mut input);
        archive.directory("sys").unwrap();
        archive.file("sys/a", 0o644, &[7; 1001]).unwrap();
        archive.finish().unwrap();
        drop(input);
        let output = cpio.wait_with_output().unwrap();
        let list = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && list.contains("drwxr-xr-x") && list.contains("1001") && list.contains("sys/a"),
            "{list}"
        );
    }
}
