//! Certificate authorities that a sandbox trusts besides those of its image (contract 4.10).
//!
//! They are appended to the bundle that programs read, and kept as a file of their own, so that they come back when
//! something in the sandbox builds the bundle anew with `update-ca-certificates`.

use std::fs;
use std::io;
use std::path::Path;

/// Relative to `/etc`; the first that exists is the image's bundle.
const BUNDLES: [&str; 4] = [
    "ssl/certs/ca-certificates.crt",
    "pki/tls/certs/ca-bundle.crt",
    "ssl/ca-bundle.pem",
    "ssl/cert.pem",
];
/// Relative to the parent of `/etc`, where `update-ca-certificates` looks.
const EXTRA: &str = "usr/local/share/ca-certificates/e2b-ca.crt";
const BEGIN: &str = "# begin sandbox authorities\n";
const END: &str = "# end sandbox authorities\n";

/// Makes `authorities` (PEM) the additional ones, in place of earlier ones.
pub(crate) fn install(etc: &Path, authorities: Option<&str>) -> io::Result<()> {
    let root = etc.parent().unwrap_or(etc);
    let extra = root.join(EXTRA);
    match authorities {
        Some(pem) => {
            if let Some(directory) = extra.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::write(&extra, pem)?;
        }
        None => match fs::remove_file(&extra) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        },
    }
    let bundle = BUNDLES.iter().map(|name| etc.join(name)).find(|path| path.exists());
    let bundle = bundle.unwrap_or_else(|| etc.join(BUNDLES[0]));
    let current = fs::read_to_string(&bundle).unwrap_or_default();
    let updated = with_authorities(&current, authorities);
    if updated != current {
        if let Some(directory) = bundle.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&bundle, updated)?;
    }
    Ok(())
}

fn with_authorities(bundle: &str, authorities: Option<&str>) -> String {
    let mut text = match (bundle.find(BEGIN), bundle.find(END)) {
        (Some(begin), Some(end)) if begin < end => [&bundle[..begin], &bundle[end + END.len()..]].concat(),
        _ => bundle.to_owned(),
    };
    if let Some(pem) = authorities {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(BEGIN);
        text.push_str(pem.trim_end());
        text.push('\n');
        text.push_str(END);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_only_its_own_part() {
        let one = with_authorities("image\n", Some("one"));
        assert_eq!(one, format!("image\n{BEGIN}one\n{END}"));
        assert_eq!(with_authorities(&one, Some("two\n")), format!("image\n{BEGIN}two\n{END}"));
        assert_eq!(with_authorities(&one, None), "image\n");
    }

    #[test]
    fn finds_the_bundle_of_the_image() {
        let root = tempfile::tempdir().expect("temporary directory");
        let etc = root.path().join("etc");
        fs::create_dir_all(etc.join("pki/tls/certs")).expect("made");
        fs::write(etc.join(BUNDLES[1]), "image\n").expect("written");
        install(&etc, Some("extra")).expect("installs");
        assert!(fs::read_to_string(etc.join(BUNDLES[1])).expect("there").contains("extra"));
        assert_eq!(fs::read_to_string(root.path().join(EXTRA)).expect("there"), "extra");
        install(&etc, None).expect("removes");
        assert_eq!(fs::read_to_string(etc.join(BUNDLES[1])).expect("there"), "image\n");
        assert!(!root.path().join(EXTRA).exists());
    }
}
