//! Metadata that clients keep with a file, as extended attributes `user.e2b.<key>` (contract 3.3).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use http::HeaderMap;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

const PREFIX: &str = "user.e2b.";
const HEADER_PREFIX: &str = "x-metadata-";
/// The kernel allows 255 bytes for a name.
const LONGEST_KEY: usize = 246;
/// What ext4 has room for next to an inode's other attributes.
const LARGEST: usize = 4096;

/// Keys and values, sorted.
pub(crate) type Metadata = BTreeMap<String, String>;

/// Metadata that cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("metadata key must not be empty")]
    EmptyKey,
    #[error("metadata key '{0}' is longer than {LONGEST_KEY} bytes")]
    LongKey(String),
    #[error("metadata value of '{0}' must be printable ASCII")]
    NotPrintable(String),
    #[error("metadata is larger than {LARGEST} bytes")]
    TooLarge,
}

/// Reads `X-Metadata-*` headers. Of several with one name the first counts.
pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Metadata, MetadataError> {
    let mut metadata = Metadata::new();
    let mut size = 0;
    for (name, value) in headers {
        // Header names are in lower case already.
        let Some(key) = name.as_str().strip_prefix(HEADER_PREFIX) else {
            continue;
        };
        if key.is_empty() {
            return Err(MetadataError::EmptyKey);
        }
        if key.len() > LONGEST_KEY {
            return Err(MetadataError::LongKey(key.to_owned()));
        }
        if metadata.contains_key(key) {
            continue;
        }
        let printable = |byte: &u8| (0x20..0x7f).contains(byte);
        let text = value.to_str().ok().filter(|text| text.as_bytes().iter().all(printable));
        let text = text.ok_or_else(|| MetadataError::NotPrintable(key.to_owned()))?;
        size += key.len() + text.len();
        if size > LARGEST {
            return Err(MetadataError::TooLarge);
        }
        metadata.insert(key.to_owned(), text.to_owned());
    }
    Ok(metadata)
}

/// The metadata of a file. A file system that has none, has none.
pub(crate) fn read(path: &Path) -> Metadata {
    names(|buffer| rustix::fs::llistxattr(path, buffer))
        .into_iter()
        .filter_map(|name| {
            let key = name.strip_prefix(PREFIX)?.to_owned();
            let mut value = vec![0; LARGEST];
            let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..]).ok()?;
            value.truncate(length);
            Some((key, String::from_utf8(value).ok()?))
        })
        .collect()
}

/// Makes `metadata` the whole metadata of an open file.
pub(crate) fn replace(file: &File, metadata: &Metadata) -> io::Result<()> {
    for name in names(|buffer| rustix::fs::flistxattr(file, buffer)) {
        let stale = name.strip_prefix(PREFIX).is_some_and(|key| !metadata.contains_key(key));
        if stale {
            rustix::fs::fremovexattr(file, name.as_str())?;
        }
    }
    for (key, value) in metadata {
        rustix::fs::fsetxattr(file, format!("{PREFIX}{key}"), value.as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

/// Our attributes' names; none where the file system or the file cannot have any.
fn names(list: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Vec<String> {
    let mut buffer = vec![0; 1024];
    let length = loop {
        match list(&mut buffer) {
            Ok(length) => break length,
            // 64 KiB is the most that the kernel lists.
            Err(Errno::RANGE) if buffer.len() < 64 << 10 => buffer.resize(64 << 10, 0),
            Err(_) => break 0,
        }
    };
    let list = buffer.get(..length).unwrap_or_default();
    list.split(|byte| *byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| name.starts_with(PREFIX))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read_headers(pairs: &[(&str, &str)]) -> Result<Metadata, MetadataError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
        }
        from_headers(&headers)
    }

    #[test]
    fn headers_become_metadata() {
        let read = read_headers(&[("X-Metadata-Kind", "a"), ("x-metadata-kind", "b"), ("Other", "c")]);
        assert_eq!(read, Ok([("kind".to_owned(), "a".to_owned())].into()));
    }

    #[test]
    fn limits_hold() {
        let long = format!("x-metadata-{}", "k".repeat(247));
        assert!(matches!(read_headers(&[(&long, "v")]), Err(MetadataError::LongKey(_))));
        let exact = format!("x-metadata-{}", "k".repeat(246));
        assert!(read_headers(&[(&exact, "v")]).is_ok());
        assert_eq!(read_headers(&[("x-metadata-", "v")]), Err(MetadataError::EmptyKey));
        assert_eq!(
            read_headers(&[("x-metadata-a", &"v".repeat(4096))]),
            Err(MetadataError::TooLarge)
        );
        assert!(matches!(
            read_headers(&[("x-metadata-a", "ü")]),
            Err(MetadataError::NotPrintable(_))
        ));
    }

    #[test]
    fn files_keep_exactly_what_is_set() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let one: Metadata = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())].into();
        match replace(file.as_file(), &one) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return println!("skipped: no extended attributes on this file system");
            }
            result => result.expect("stored"),
        }
        assert_eq!(read(file.path()), one);
        let two: Metadata = [("b".to_owned(), "2".to_owned())].into();
        replace(file.as_file(), &two).expect("stored");
        assert_eq!(read(file.path()), two);
    }
}
