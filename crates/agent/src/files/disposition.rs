//! `Content-Disposition` of an uploaded part (contract 3.3).
//!
//! The file name of a part is a whole path here, so nothing is stripped from it. Clients write it in three ways:
//! quoted with backslashes, quoted with `%22` for a quote as HTML forms do, or as `filename*` in RFC 5987's coding.

use percent_encoding::percent_decode_str;

/// The two parameters that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disposition {
    pub name: Option<String>,
    pub filename: Option<String>,
}

/// Reads the header's value. What cannot be read is absent.
pub(crate) fn parse(value: &str) -> Disposition {
    let mut disposition = Disposition::default();
    let mut extended = None;
    let mut rest = value.split_once(';').map_or("", |(_, parameters)| parameters);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = take_value(after.trim_start());
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => disposition.name = Some(value),
            "filename" => disposition.filename = Some(undo_form_escapes(&value)),
            "filename*" => extended = decode_extended(&value),
            _ => {}
        }
        rest = after.trim_start().strip_prefix(';').unwrap_or_default();
    }
    disposition.filename = extended.or(disposition.filename);
    disposition
}

/// A token or a quoted string, and what follows it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.trim_end().to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            // Only quotes and backslashes are escaped: some clients send Windows paths without escaping them.
            '\\' => match characters.clone().next() {
                Some((_, escaped @ ('"' | '\\'))) => {
                    characters.next();
                    value.push(escaped);
                }
                _ => value.push('\\'),
            },
            _ => value.push(character),
        }
    }
    (value, "")
}

/// HTML forms escape exactly these three, and nothing else.
fn undo_form_escapes(value: &str) -> String {
    value.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

/// `UTF-8''path%20with%20spaces`.
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let decoded = percent_decode_str(encoded);
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" | "us-ascii" => decoded.decode_utf8().ok().map(std::borrow::Cow::into_owned),
        "iso-8859-1" => Some(decoded.map(char::from).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(value: &str, name: Option<&str>, filename: Option<&str>) {
        let disposition = parse(value);
        assert_eq!(disposition.name.as_deref(), name, "{value}");
        assert_eq!(disposition.filename.as_deref(), filename, "{value}");
    }

    #[test]
    fn reads_what_clients_write() {
        check("form-data; name=\"file\"", Some("file"), None);
        check("form-data; name=file; filename=a.txt", Some("file"), Some("a.txt"));
        check(
            "form-data; name=\"file\"; filename=\"/a/b c;d=e.txt\"",
            Some("file"),
            Some("/a/b c;d=e.txt"),
        );
        check(
            r#"form-data; name="file"; filename="a\"b\\c\d""#,
            Some("file"),
            Some(r#"a"b\c\d"#),
        );
        check("form-data; filename=\"say %22hi%22.txt\"", None, Some("say \"hi\".txt"));
        check("form-data; filename=\"100%25.txt\"", None, Some("100%25.txt"));
        check(
            "form-data; filename=\"a\"; filename*=UTF-8''%E4%BD%A0.txt; name=file",
            Some("file"),
            Some("你.txt"),
        );
        check("form-data; filename*=latin9''x; filename=\"a\"", None, Some("a"));
        check("form-data; FileName=\"a\"; NAME=\"file\"", Some("file"), Some("a"));
        check("form-data", None, None);
        check("form-data; name=\"unfinished", Some("unfinished"), None);
    }

    proptest! {
        #[test]
        fn takes_any_header(value in ".*") {
            parse(&value);
        }

        #[test]
        fn reads_back_what_is_quoted(path in "[^%]*") {
            let quoted = path.replace('\\', "\\\\").replace('"', "\\\"");
            let disposition = parse(&format!("form-data; name=\"file\"; filename=\"{quoted}\"; x=\"y\""));
            prop_assert_eq!(disposition.filename, Some(path));
            prop_assert_eq!(disposition.name.as_deref(), Some("file"));
        }
    }
}
