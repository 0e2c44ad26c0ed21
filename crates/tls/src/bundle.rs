//! Files of authorities for clients that replace their own list by the one they are given.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::LocalCa;
use crate::error::Result;
use crate::private::{self, Readers};

/// Where systems keep all the authorities they trust in one file.
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// What clients on this host are pointed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundles {
    /// For `SSL_CERT_FILE`, which replaces the system's list: that list and the local authority.
    pub replacing: PathBuf,
    /// For `NODE_EXTRA_CA_CERTS`, which adds to a list: the local authority, and what the variable named before.
    pub adding: PathBuf,
}

impl Bundles {
    /// Writes the bundles beside the authority. `replaced` and `added` are what the two variables named before, if anything: that is kept.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(ca: &LocalCa, replaced: Option<&Path>, added: Option<&Path>) -> Result<Self> {
        let ours = |path: &&Path| !path.starts_with(ca.directory());
        let system = replaced
            .filter(ours)
            .and_then(text)
            .or_else(|| SYSTEM.iter().find_map(|path| text(Path::new(path))));
        let added = added.filter(ours).and_then(text);
        let replacing = ca.directory().join("bundle.crt");
        let all = [system.as_deref(), added.as_deref(), Some(ca.pem())];
        save(&replacing, &joined(all.into_iter().flatten()))?;
        let adding = match &added {
            None => ca.file(),
            Some(added) => {
                let file = ca.directory().join("extra.crt");
                save(&file, &joined([added, ca.pem()].into_iter()))?;
                file
            }
        };
        Ok(Self { replacing, adding })
    }
}

/// The content of a file with at least one certificate.
fn text(path: &Path) -> Option<String> {
    // Not always UTF-8: some systems put the authorities' names between the certificates.
    let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
    text.contains(BEGIN).then_some(text)
}

/// All certificates of all texts, each once.
fn joined<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    let mut seen = HashSet::new();
    let mut all = String::new();
    for text in texts {
        for part in text.split(BEGIN).skip(1) {
            let Some((body, _)) = part.split_once(END) else { continue };
            if seen.insert(body.split_whitespace().collect::<String>()) {
                all.push_str(&format!("{BEGIN}\n{}\n{END}\n", body.trim()));
            }
        }
    }
    all
}

/// Leaves a file alone that is right already: somebody may be reading it, and who asks need not be its owner.
fn save(path: &Path, content: &str) -> Result<()> {
    if private::read(path)?.as_deref() == Some(content) {
        return Ok(());
    }
    private::write(path, Readers::All, content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(body: &str) -> String {
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    #[test]
    fn the_list_that_is_replaced_stays_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open(&dir.path().join("tls")).unwrap();
        let before = dir.path().join("before.pem");
        std::fs::write(&before, format!("# company\n{}{}", certificate("QUFB"), certificate("QUFB"))).unwrap();

        let bundles = Bundles::write(&ca, Some(&before), None).unwrap();

        let text = std::fs::read_to_string(&bundles.replacing).unwrap();
        assert_eq!(text, format!("{}{}", certificate("QUFB"), ca.pem().replace("\r\n", "\n")));
        assert_eq!(bundles.adding, ca.file());
    }

    #[test]
    fn bundles_do_not_grow_when_they_are_named_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open(&dir.path().join("tls")).unwrap();
        let first = Bundles::write(&ca, None, None).unwrap();
        let text = std::fs::read_to_string(&first.replacing).unwrap();

        let second = Bundles::write(&ca, Some(&first.replacing), Some(&first.adding)).unwrap();

        assert_eq!(first, second);
        assert_eq!(std::fs::read_to_string(&second.replacing).unwrap(), text);
    }

    #[test]
    fn what_node_was_told_to_trust_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open(&dir.path().join("tls")).unwrap();
        let company = dir.path().join("company.pem");
        std::fs::write(&company, certificate("QkJC")).unwrap();

        let bundles = Bundles::write(&ca, None, Some(&company)).unwrap();

        for file in [&bundles.adding, &bundles.replacing] {
            let text = std::fs::read_to_string(file).unwrap();
            assert!(
                text.contains("QkJC") && text.ends_with(&ca.pem().replace("\r\n", "\n")),
                "{text}"
            );
        }
    }
}
