//! Certificate authorities that this host trusts beyond those that Debian ships.
//!
//! A host behind a TLS-inspecting proxy trusts the proxy's authority; a sandbox on it must trust it too, or no
//! `pip install` inside works. [`host_extra_cas`] finds such authorities by comparing the host's bundle with the
//! certificates of the package `ca-certificates`.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The bundle that `update-ca-certificates` makes, on Debian and its relatives.
const HOST_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What the package ships.
const SHIPPED: &str = "/usr/share/ca-certificates";

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// One certificate in PEM: the two marker lines and the base64 between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Certificate {
    pem: String,
}

impl Certificate {
    /// The certificate as text that ends with a line feed.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The same for the same certificate however its lines are broken: a short name for files and digests.
    pub fn fingerprint(&self) -> String {
        let body: String = self.pem.lines().filter(|line| !line.starts_with("-----")).collect();
        blake3::hash(body.as_bytes()).to_hex()[..16].to_string()
    }
}

/// The host's additional authorities; none on a host without Debian's layout or without additions.
pub fn host_extra_cas() -> Result<Vec<Certificate>> {
    extra_cas(Path::new(HOST_BUNDLE), Path::new(SHIPPED))
}

/// All certificates of a PEM file; an error when it has none.
pub fn read_file(path: &Path) -> Result<Vec<Certificate>> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let found = parse(&text);
    if found.is_empty() {
        return Err(Error::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

/// The certificates of `bundle` that are in no file below `shipped`, each once.
fn extra_cas(bundle: &Path, shipped: &Path) -> Result<Vec<Certificate>> {
    let text = match fs::read_to_string(bundle) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", bundle)(error)),
    };
    let mut known = HashSet::new();
    for file in files_below(shipped)? {
        // A file that is no text is no PEM: the host's own tools would skip it too.
        if let Ok(text) = fs::read_to_string(&file) {
            known.extend(parse(&text).iter().map(Certificate::fingerprint));
        }
    }
    if known.is_empty() {
        // Without the shipped set everything would look additional.
        return Ok(Vec::new());
    }
    Ok(parse(&text)
        .into_iter()
        .filter(|certificate| known.insert(certificate.fingerprint()))
        .collect())
}

/// Cuts the certificates out of a PEM text; what stands between them is ignored.
fn parse(text: &str) -> Vec<Certificate> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let Some((body, after)) = after.split_once(END) else { break };
        let lines: Vec<&str> = body.split_whitespace().collect();
        if !lines.is_empty() {
            found.push(Certificate {
                pem: format!("{BEGIN}\n{}\n{END}\n", lines.join("\n")),
            });
        }
        rest = after;
    }
    found
}

/// Every regular file below a directory; none when it does not exist.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("list", next)(error)),
        };
        for entry in entries {
            let path = entry.map_err(Error::io("list", &next))?.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(body: &str) -> String {
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    #[test]
    fn only_certificates_that_are_not_shipped_are_extra() {
        let host = tempfile::tempdir().unwrap();
        let shipped = host.path().join("shipped/mozilla");
        fs::create_dir_all(&shipped).unwrap();
        fs::write(shipped.join("a.crt"), certificate("QUFB\nQkJC")).unwrap();
        let bundle = host.path().join("bundle.crt");
        fs::write(
            &bundle,
            format!(
                "{}# company\n{}{}",
                certificate("QUFBQkJC"),
                certificate("WA=="),
                certificate("WA==")
            ),
        )
        .unwrap();

        let extra = extra_cas(&bundle, &host.path().join("shipped")).unwrap();

        assert_eq!(extra.len(), 1);
        assert_eq!(extra[0].pem(), certificate("WA=="));
    }

    #[test]
    fn nothing_is_extra_without_the_shipped_set() {
        let host = tempfile::tempdir().unwrap();
        let bundle = host.path().join("bundle.crt");
        fs::write(&bundle, certificate("WA==")).unwrap();

        assert!(extra_cas(&bundle, &host.path().join("none")).unwrap().is_empty());
        assert!(extra_cas(&host.path().join("none"), host.path()).unwrap().is_empty());
    }

    #[test]
    fn unfinished_certificate_is_ignored_and_a_file_without_any_is_an_error() {
        let host = tempfile::tempdir().unwrap();
        let file = host.path().join("x.pem");
        fs::write(&file, format!("{BEGIN}\nQUFB\n")).unwrap();

        assert!(matches!(read_file(&file), Err(Error::NoCertificate { .. })));
    }
}
