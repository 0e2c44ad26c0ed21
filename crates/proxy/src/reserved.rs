//! Paths of the agent that outsiders may not reach (contract 3.2).

use std::borrow::Cow;

use dormouse_agent_proto::route::RESERVED;
use percent_encoding::percent_decode_str;

/// More layers of percent-encoding than this are not undone by anybody.
const MOST_DECODINGS: usize = 4;

/// The reserved path that a request path stands for, however it is written.
///
/// The agent itself compares paths as they are. This is stricter on purpose: a reserved path is recognised behind every rewriting that
/// some HTTP library does somewhere (doubled slashes, dot segments, escapes in several layers, backslashes, parameters, letter case).
pub(crate) fn reserved(path: &str) -> Option<&'static str> {
    let mut path = Cow::Borrowed(path);
    for _ in 0..MOST_DECODINGS {
        if !path.contains('%') {
            break;
        }
        path = Cow::Owned(percent_decode_str(&path).decode_utf8_lossy().into_owned());
    }
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']) {
        let segment = segment.split([';', '?', '#']).next().unwrap_or_default();
        match segment.trim_matches(|c: char| c.is_control() || c.is_whitespace()) {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let [only] = segments[..] else { return None };
    RESERVED.into_iter().find(|path| path[1..].eq_ignore_ascii_case(only))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reserved_path_is_found() {
        for path in [
            "/init",
            "/freeze",
            "/unfreeze",
            "/collapse",
            "/fsfreeze",
            "/fsthaw",
            "/upgrade",
            "/tunnel",
        ] {
            assert_eq!(reserved(path), Some(path));
        }
    }

    #[test]
    fn disguises_are_seen_through() {
        for path in [
            "//init",
            "/./init",
            "/%69nit",
            "/foo/../init",
            "/init/",
            "/init//",
            "init",
            "/..//init",
            "/%2e%2e/init",
            "/%2Finit",
            "/%2569nit",
            "/foo/%2e%2e/init",
            "\\init",
            "/foo\\..\\init",
            "/init;x=1",
            "/INIT",
            "/init%00",
            "/init%20",
            "/%25252569nit",
            "/init%3Fa",
            "/./foo/.././init/.",
        ] {
            assert_eq!(reserved(path), Some("/init"), "{path}");
        }
    }

    #[test]
    fn other_paths_are_not() {
        for path in [
            "/",
            "*",
            "/files",
            "/files/init",
            "/initial",
            "/init/x",
            "/process.Process/Start",
            "/health",
            "/..",
            "/%",
            "/foo/..",
            "/%zz",
        ] {
            assert_eq!(reserved(path), None, "{path}");
        }
    }
}
