//! `Range` of a download (contract 3.3): a single range of bytes.

/// What part of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range, or one that we do not have to honour.
    All,
    /// `length` bytes from `start`; never empty.
    Part { start: u64, length: u64 },
    /// Nothing of what is there.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size` bytes. Several ranges at once may be answered with the whole file.
pub(crate) fn parse(header: &str, size: u64) -> Wanted {
    let Some(spec) = header.trim().strip_prefix("bytes=") else {
        return Wanted::All;
    };
    let Some((first, last)) = spec.trim().split_once('-').filter(|_| !spec.contains(',')) else {
        return Wanted::All;
    };
    let number = |text: &str| -> Option<u64> {
        let text = text.trim();
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    };
    let (start, end) = match (first.trim(), last.trim()) {
        ("", "") => return Wanted::All,
        ("", suffix) => match number(suffix) {
            None => return Wanted::All,
            Some(length) => (size.saturating_sub(length), size),
        },
        (first, "") => match number(first) {
            None => return Wanted::All,
            Some(start) => (start, size),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(size)),
            _ => return Wanted::All,
        },
    };
    if start >= end {
        Wanted::Unsatisfiable
    } else {
        Wanted::Part {
            start,
            length: end - start,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_form() {
        let part = |start, length| Wanted::Part { start, length };
        for (header, expected) in [
            ("bytes=0-4", part(0, 5)),
            ("bytes=5-", part(5, 5)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-30", part(0, 10)),
            ("bytes=8-99", part(8, 2)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=4-2", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("items=0-1", Wanted::All),
        ] {
            assert_eq!(parse(header, 10), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_inside(header in "bytes=[0-9-]{0,30}|.*", size: u64) {
            if let Wanted::Part { start, length } = parse(&header, size) {
                prop_assert!(length > 0 && start < size && length <= size - start);
            }
        }
    }
}
