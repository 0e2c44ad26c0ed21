//! The server over byte streams, as the gateway uses it.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use proptest::prelude::*;

use super::wire::{Reader, Writer};
use super::*;

/// Sends one request and gives the kind and the body of the answer.
fn ask(server: &mut Server, kind: u8, build: impl FnOnce(&mut Writer)) -> (u8, Vec<u8>) {
    let mut packet = Writer::new(kind);
    packet.u32(7);
    build(&mut packet);
    let answer = server.answer(&packet.finish()[4..]);
    let length = u32::from_be_bytes(answer[..4].try_into().expect("a length")) as usize;
    assert_eq!(length, answer.len() - 4);
    assert_eq!(answer[5..9], 7u32.to_be_bytes(), "the request's number");
    (answer[4], answer[9..].to_vec())
}

fn code(answer: &(u8, Vec<u8>)) -> u32 {
    assert_eq!(answer.0, 101, "a status");
    Reader::new(&answer.1).u32().expect("a code")
}

fn handle(answer: &(u8, Vec<u8>)) -> Vec<u8> {
    assert_eq!(answer.0, 102, "a handle");
    Reader::new(&answer.1).string().expect("a handle").to_vec()
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn open(server: &mut Server, path: &Path, flags: u32) -> (u8, Vec<u8>) {
    ask(server, 3, |packet| {
        packet.string(bytes(path)).u32(flags).u32(0);
    })
}

#[test]
fn a_file_is_written_at_offsets_and_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    let mut server = Server::default();
    let file = handle(&open(&mut server, &path, 2 | 8 | 16));
    for (offset, text) in [(5, "world"), (0, "hello")] {
        let done = ask(&mut server, 6, |packet| {
            packet.string(&file).u64(offset).string(text.as_bytes());
        });
        assert_eq!(code(&done), 0);
    }
    assert_eq!(
        code(&ask(&mut server, 4, |packet| {
            packet.string(&file);
        })),
        0
    );
    assert_eq!(
        code(&ask(&mut server, 4, |packet| {
            packet.string(&file);
        })),
        4,
        "closed already"
    );
    let file = handle(&open(&mut server, &path, 1));
    let data = ask(&mut server, 5, |packet| {
        packet.string(&file).u64(3).u32(1 << 20);
    });
    assert_eq!((data.0, Reader::new(&data.1).string()), (103, Ok(&b"loworld"[..])));
    let end = ask(&mut server, 5, |packet| {
        packet.string(&file).u64(10).u32(1);
    });
    assert_eq!(code(&end), 1);
}

#[test]
fn names_that_are_no_text_are_listed_as_they_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"odd\xff\nname"));
    std::fs::write(&odd, "x").expect("written");
    let mut server = Server::default();
    let listing = handle(&ask(&mut server, 11, |packet| {
        packet.string(bytes(dir.path()));
    }));
    let (kind, body) = ask(&mut server, 12, |packet| {
        packet.string(&listing);
    });
    let mut reader = Reader::new(&body);
    assert_eq!((kind, reader.u32()), (104, Ok(3)));
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(reader.string().expect("a name").to_vec());
        reader.string().expect("a line");
        attributes::Attributes::read(&mut reader).expect("attributes");
    }
    assert_eq!(names, [&b"."[..], b"..", b"odd\xff\nname"]);
    assert_eq!(
        code(&ask(&mut server, 12, |packet| {
            packet.string(&listing);
        })),
        1
    );
}

#[test]
fn rename_refuses_to_replace_and_the_extension_replaces() {
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, "new").expect("written");
    std::fs::write(&to, "old").expect("written");
    let mut server = Server::default();
    let plain = ask(&mut server, 18, |packet| {
        packet.string(bytes(&from)).string(bytes(&to));
    });
    assert_eq!(code(&plain), 4);
    let posix = ask(&mut server, 200, |packet| {
        packet
            .string(b"posix-rename@openssh.com")
            .string(bytes(&from))
            .string(bytes(&to));
    });
    assert_eq!(code(&posix), 0);
    assert_eq!(std::fs::read(&to).expect("there"), b"new");
}

#[test]
fn mode_and_times_are_set_and_links_are_made_and_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, link) = (dir.path().join("file"), dir.path().join("link"));
    std::fs::write(&path, "x").expect("written");
    let mut server = Server::default();
    let set = ask(&mut server, 9, |packet| {
        packet.string(bytes(&path)).u32(4 | 8).u32(0o640).u32(1_000).u32(2_000);
    });
    assert_eq!(code(&set), 0);
    let metadata = std::fs::metadata(&path).expect("there");
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.mtime()), (0o640, 2_000));
    let made = ask(&mut server, 20, |packet| {
        packet.string(b"file").string(bytes(&link));
    });
    assert_eq!(code(&made), 0);
    let (kind, body) = ask(&mut server, 19, |packet| {
        packet.string(bytes(&link));
    });
    let mut reader = Reader::new(&body);
    assert_eq!((kind, reader.u32(), reader.string()), (104, Ok(1), Ok(&b"file"[..])));
}

#[test]
fn errors_have_their_codes() {
    let mut server = Server::default();
    assert_eq!(code(&open(&mut server, Path::new("/no/such/file"), 1)), 2);
    assert_eq!(code(&open(&mut server, Path::new("/"), 2)), 4);
    assert_eq!(code(&ask(&mut server, 99, |_| {})), 8);
    assert_eq!(code(&ask(&mut server, 3, |_| {})), 5, "a cut request");
}

#[test]
fn handles_are_bounded() {
    let mut server = Server::default();
    let opened = (0..=server::MOST_HANDLES).map(|_| open(&mut server, Path::new("/dev/null"), 1).0);
    assert_eq!(opened.filter(|&kind| kind == 102).count(), server::MOST_HANDLES);
}

#[test]
fn a_session_ends_with_its_input_and_an_endless_packet_ends_it_at_once() {
    let mut output = Vec::new();
    serve(&[0, 0, 0, 5, 1, 0, 0, 0, 3][..], &mut output).expect("served");
    assert_eq!(output[4..9], [2, 0, 0, 0, 3], "version 3");
    assert!(serve(&[0xff; 64][..], io::sink()).is_err());
}

proptest! {
    #[test]
    fn any_packet_is_answered(kind in 0u8..=255, body in proptest::collection::vec(any::<u8>(), 0..64)) {
        // No request of these changes anything without a valid path in it, and the paths are random bytes in a relative place.
        prop_assume!(!matches!(kind, 3 | 6 | 9 | 10 | 13 | 14 | 15 | 18 | 20 | 200));
        let packet = [&[kind][..], &body].concat();
        let answer = Server::default().answer(&packet);
        prop_assert_eq!(u32::from_be_bytes(answer[..4].try_into().expect("a length")) as usize, answer.len() - 4);
    }

    #[test]
    fn any_packet_is_parsed_or_refused(packet in proptest::collection::vec(any::<u8>(), 0..256)) {
        let parsed = super::request::Request::parse(&packet);
        prop_assert_eq!(parsed.is_none(), packet.len() < 5);
    }
}
