//! Words of a Dockerfile's arguments: cut at blanks, quotes and backslashes taken away, `$VARIABLES` left for the server.

/// Cuts a text into words. A `$` that quotes or a backslash protect comes out as `\$`, and a backslash before it is doubled: the
/// server expands what is left.
///
/// # Errors
/// A quote is not closed.
pub(crate) fn split(text: &str) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => protect(word, c),
                        None => anyhow::bail!("a single quote is not closed in: {text}"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('$' | '\\' | '"')) => protect(word, c),
                            Some(c) => word.extend(['\\', c]),
                            None => anyhow::bail!("a double quote is not closed in: {text}"),
                        },
                        Some(c) => word.push(c),
                        None => anyhow::bail!("a double quote is not closed in: {text}"),
                    }
                }
            }
            '\\' => {
                if let Some(c) = chars.next() {
                    protect(word.get_or_insert_default(), c);
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn protect(word: &mut String, c: char) {
    if matches!(c, '$' | '\\') {
        word.push('\\');
    }
    word.push(c);
}

/// A word for a shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '=' | '@' | '%' | '+' | ',');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// `NAME=value` words of ENV or ARG; or ENV's old form, a name and the rest of the line.
///
/// # Errors
/// There is no name, or no value where one must be.
pub(crate) fn pairs(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let words = split(text)?;
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        let Some((name, value)) = text.trim().split_once(char::is_whitespace) else {
            anyhow::bail!("ENV needs a value: {text}");
        };
        return Ok(vec![(name.to_owned(), split(value)?.join(" "))]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => anyhow::bail!("`{word}` is not NAME=value"),
    };
    words.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lose_their_quotes_and_keep_their_variables() {
        for (text, words) in [
            ("a  b\tc", &["a", "b", "c"][..]),
            (r#""a b" 'c d' e\ f"#, &["a b", "c d", "e f"]),
            (r#"$A "$B" '$C' \$D"#, &["$A", "$B", r"\$C", r"\$D"]),
            (r#""x\ny" ''"#, &[r"x\ny", ""]),
            ("", &[]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for text in ["'a", "\"a", "\"a\\"] {
            assert!(split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn both_forms_of_env_are_read() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(pairs(text).unwrap(), expected);
        };
        check(r#"A=1 B="x y" C="#, &[("A", "1"), ("B", "x y"), ("C", "")]);
        check("A some value", &[("A", "some value")]);
        assert!(pairs("A").is_err());
        assert!(pairs("A=1 B").is_err());
        assert!(pairs("=1").is_err());
    }

    #[test]
    fn quoting_is_only_where_it_must_be() {
        assert_eq!(quoted("python3"), "python3");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
