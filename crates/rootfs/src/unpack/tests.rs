use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

const STRICT: Options = Options {
    whiteouts: Whiteouts::Ignore,
    max_bytes: 1 << 20,
    max_entries: 1000,
    strict: true,
};
const LAYER: Options = Options {
    whiteouts: Whiteouts::Apply,
    strict: false,
    ..STRICT
};

/// One entry, its name and target taken as they are: the crate's own writer would refuse what must be tried here.
#[derive(Clone, Debug)]
struct Item {
    kind: EntryType,
    name: Vec<u8>,
    target: Vec<u8>,
    content: Vec<u8>,
}

fn item(kind: EntryType, name: &str, more: &str) -> Item {
    let link = matches!(kind, EntryType::Symlink | EntryType::Link);
    Item {
        kind,
        name: name.into(),
        target: if link { more.into() } else { Vec::new() },
        content: if link { Vec::new() } else { more.into() },
    }
}

fn file(name: &str, content: &str) -> Item {
    item(EntryType::Regular, name, content)
}

fn tar(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for item in items {
        let mut header = Header::new_gnu();
        header.set_entry_type(item.kind);
        header.set_mode(0o750);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(item.content.len() as u64);
        let old = header.as_old_mut();
        let length = item.name.len().min(old.name.len());
        old.name[..length].copy_from_slice(&item.name[..length]);
        let length = item.target.len().min(old.linkname.len());
        old.linkname[..length].copy_from_slice(&item.target[..length]);
        header.set_cksum();
        builder.append(&header, &*item.content).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Place {
    home: tempfile::TempDir,
    root: PathBuf,
}

fn place() -> Place {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::create_dir(home.path().join("outside")).unwrap();
    fs::write(home.path().join("outside/secret"), "secret").unwrap();
    Place { home, root }
}

impl Place {
    fn unpack(&self, items: &[Item], options: &Options) -> Result<Unpacked, UnpackError> {
        unpack(&*tar(items), &self.root, options)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    fn outside_is_untouched(&self) {
        assert_eq!(fs::read_dir(self.home.path()).unwrap().count(), 2);
        assert_eq!(fs::read_dir(self.home.path().join("outside")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(self.home.path().join("outside/secret")).unwrap(), "secret");
    }
}

#[test]
fn files_links_and_directories_arrive_with_their_attributes() {
    let place = place();
    let items = [
        item(EntryType::Directory, "./d/", ""),
        file("d/f", "content"),
        item(EntryType::Symlink, "d/broken", "/no/where"),
        item(EntryType::Link, "d/hard", "d/f"),
        item(EntryType::Fifo, "d/pipe", ""),
        file("implied/parent/f", "x"),
    ];
    let done = place.unpack(&items, &STRICT).unwrap();
    assert_eq!(done, Unpacked { bytes: 8, entries: 6 });
    assert_eq!(place.read("d/hard"), "content");
    assert_eq!(fs::read_link(place.root.join("d/broken")).unwrap(), Path::new("/no/where"));
    let directory = fs::metadata(place.root.join("d")).unwrap();
    assert_eq!((directory.mode() & 0o7777, directory.mtime()), (0o750, 1_000_000_000));
    assert_eq!(fs::metadata(place.root.join("d/f")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../outside/x", "a/../../outside/x", "a/..", ".."] {
        let place = place();
        let error = place.unpack(&[file(name, "x")], &LAYER).unwrap_err();
        assert!(matches!(error, UnpackError::Name { .. }), "{name}: {error}");
        place.outside_is_untouched();
    }
    let place = place();
    let error = place.unpack(&[file("/etc/x", "x")], &STRICT).unwrap_err();
    assert!(error.to_string().contains("absolute"), "{error}");
    place.unpack(&[file("/etc/x", "x")], &LAYER).unwrap();
    assert_eq!(place.read("etc/x"), "x");
}

#[test]
fn links_do_not_lead_out() {
    let place = place();
    let outside = place.home.path().join("outside");
    let outside = outside.to_str().unwrap();
    for target in [outside, "../outside", "../../../../../../../.."] {
        let items = [
            item(EntryType::Symlink, "link", target),
            file("link/secret", "overwritten"),
            file("link/new", "x"),
            item(EntryType::Directory, "link/dir", ""),
        ];
        // The link is followed inside the tree, where there may be nothing.
        let _ = place.unpack(&items, &LAYER);
        place.outside_is_untouched();
    }
    let items = [
        item(EntryType::Symlink, "s", &format!("{outside}/secret")),
        item(EntryType::Link, "h", "s"),
        file("h", "overwritten"),
        file("s", "overwritten"),
    ];
    place.unpack(&items, &LAYER).unwrap();
    place.outside_is_untouched();
}

#[test]
fn device_nodes_are_never_made() {
    for kind in [EntryType::Char, EntryType::Block] {
        let place = place();
        place.unpack(&[item(kind, "null", "")], &LAYER).unwrap();
        assert!(!place.root.join("null").exists());
        let error = place.unpack(&[item(kind, "null", "")], &STRICT).unwrap_err();
        assert!(error.to_string().contains("device"), "{error}");
    }
}

#[test]
fn bombs_are_stopped() {
    let place = place();
    let small = Options {
        max_bytes: 10,
        max_entries: 3,
        ..STRICT
    };
    let error = place.unpack(&[file("a", "123456"), file("b", "123456")], &small).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { what: "bytes", .. }), "{error}");
    let many: Vec<_> = (0..4).map(|n| file(&format!("f{n}"), "")).collect();
    let error = place.unpack(&many, &small).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { what: "entries", .. }), "{error}");
}

#[test]
fn an_archive_that_breaks_off_is_damaged() {
    let place = place();
    let whole = tar(&[file("a", &"x".repeat(2000))]);
    let error = unpack(&whole[..1000], &place.root, &STRICT).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged(_)), "{error}");
}

#[test]
fn whiteouts_remove_what_was_there_and_nothing_else() {
    let place = place();
    for path in ["gone/deep", "opaque/old", "both/old"] {
        fs::create_dir_all(place.root.join(path)).unwrap();
    }
    fs::write(place.root.join("file"), "old").unwrap();
    symlink("../outside", place.root.join("link")).unwrap();
    let items = [
        file(".wh.gone", ""),
        file(".wh.file", ""),
        file(".wh.link", ""),
        file(".wh.never", ""),
        file(".wh..wh.plnk", ""),
        item(EntryType::Directory, "opaque", ""),
        file("opaque/new", "x"),
        file("opaque/.wh..wh..opq", ""),
        file("both/new", "x"),
        // After what the layer itself brings.
        file(".wh.both", ""),
        file("..wh.", "an ordinary file"),
    ];
    place.unpack(&items, &LAYER).unwrap();
    let mut left: Vec<_> = fs::read_dir(&place.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["..wh.", "both", "opaque"]);
    for dir in ["both", "opaque"] {
        assert!(place.root.join(dir).join("new").exists());
        assert!(!place.root.join(dir).join("old").exists());
    }
    place.outside_is_untouched();
}

#[test]
fn an_entry_replaces_what_was_there() {
    let place = place();
    fs::create_dir_all(place.root.join("dir/below")).unwrap();
    symlink("../outside", place.root.join("link")).unwrap();
    fs::write(place.root.join("file"), "old").unwrap();
    let items = [
        file("dir", "now a file"),
        item(EntryType::Directory, "link", ""),
        item(EntryType::Directory, "file", ""),
    ];
    place.unpack(&items, &LAYER).unwrap();
    assert_eq!(place.read("dir"), "now a file");
    assert!(fs::symlink_metadata(place.root.join("link")).unwrap().is_dir());
    assert!(place.root.join("file").is_dir());
    place.outside_is_untouched();
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("".to_owned()),
        Just(".wh.a".to_owned()),
        Just(".wh..wh..opq".to_owned()),
        Just("outside".to_owned()),
        Just("secret".to_owned()),
    ];
    prop_oneof![
        4 => proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let kinds = prop_oneof![
        Just(EntryType::Regular),
        Just(EntryType::Directory),
        Just(EntryType::Symlink),
        Just(EntryType::Link),
        Just(EntryType::Fifo),
        Just(EntryType::Char),
        Just(EntryType::Block),
        Just(EntryType::new(b'Z')),
    ];
    let one = (kinds, names(), names()).prop_map(|(kind, name, target)| Item {
        kind,
        name,
        content: if kind == EntryType::Regular {
            target.clone()
        } else {
            Vec::new()
        },
        target,
    });
    proptest::collection::vec(one, 0..12)
}

proptest! {
    #[test]
    fn no_archive_reaches_outside(items in items(), strict in any::<bool>()) {
        let place = place();
        let options = Options { strict, ..LAYER };
        let _ = place.unpack(&items, &options);
        // As over an earlier layer.
        let _ = place.unpack(&items, &options);
        place.outside_is_untouched();
    }

    #[test]
    fn any_bytes_are_an_archive_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let place = place();
        let _ = unpack(&*bytes, &place.root, &LAYER);
        place.outside_is_untouched();
    }
}
