//! `Range` of a download (contract 3.3): one range of bytes, or several.

/// More ranges than this in one request are no reading of a file (RFC 9110 14.2 lets us answer with all of it).
const MOST: usize = 256;

/// What part of a file is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range, or one that we do not have to honour.
    All,
    /// Some of it, in the order that was asked for; never none.
    Parts(Vec<Part>),
    /// Nothing of what is there.
    Unsatisfiable,
}

/// `length` bytes from `start`; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub start: u64,
    pub length: u64,
}

impl Part {
    /// `Content-Range` of this part.
    pub(crate) fn header(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.start, self.start + self.length - 1)
    }
}

/// Reads a `Range` header for a file of `size` bytes.
///
/// One that makes no sense is ignored, and one that asks for more bytes than the file has (in overlapping parts) gets the file.
pub(crate) fn parse(header: &str, size: u64) -> Wanted {
    let Some(spec) = header.trim().strip_prefix("bytes=") else {
        return Wanted::All;
    };
    let mut parts = Vec::new();
    let mut sum = 0_u64;
    for item in spec.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match parse_one(item, size) {
            None => return Wanted::All,
            Some((start, end)) if start < end => {
                let part = Part {
                    start,
                    length: end - start,
                };
                sum = sum.saturating_add(part.length);
                parts.push(part);
            }
            // Those that can be answered are.
            Some(_) => {}
        }
        if sum > size || parts.len() > MOST {
            return Wanted::All;
        }
    }
    match (parts.is_empty(), spec.trim_matches([' ', ',']).is_empty()) {
        (false, _) => Wanted::Parts(parts),
        (true, false) => Wanted::Unsatisfiable,
        (true, true) => Wanted::All,
    }
}

/// Start and end of one range; the end is not part of it. None for nonsense.
fn parse_one(item: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = item.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", suffix) => Some((size.saturating_sub(number(suffix)?), size)),
        (first, "") => Some((number(first)?, size)),
        (first, last) => {
            let (start, last) = (number(first)?, number(last)?);
            (start <= last).then(|| (start, last.saturating_add(1).min(size)))
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_form() {
        let part = |start, length| Wanted::Parts(vec![Part { start, length }]);
        let both = Wanted::Parts(vec![Part { start: 0, length: 2 }, Part { start: 3, length: 2 }]);
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
            ("bytes=0-1,3-4", both.clone()),
            ("bytes= 0-1 ,, 3-4,", both.clone()),
            ("bytes=0-1,3-4,10-,-0", both),
            ("bytes=10-,11-", Wanted::Unsatisfiable),
            ("bytes=0-1,x", Wanted::All),
            ("bytes=0-8,0-8", Wanted::All),
            ("bytes=,", Wanted::All),
            ("bytes=-", Wanted::All),
            ("items=0-1", Wanted::All),
        ] {
            assert_eq!(parse(header, 10), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_inside(header in "bytes=[0-9,-]{0,30}|.*", size: u64) {
            if let Wanted::Parts(parts) = parse(&header, size) {
                for part in parts {
                    prop_assert!(part.length > 0 && part.start < size && part.length <= size - part.start);
                }
            }
        }
    }
}
