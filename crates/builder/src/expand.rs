//! Variables in the arguments of steps (contract 5.3): `$NAME`, `${NAME}`, and the two forms with a default that Dockerfiles use.
//!
//! As in a shell's double quotes, but nothing is executed: a `$(` or a backtick stays as it is.

/// `text` with its variables replaced by what `lookup` knows; unknown ones are empty.
pub(crate) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        out.push_str(&rest[..at]);
        let special = &rest[at..];
        if let Some(escaped) = special.strip_prefix('\\') {
            // Only what is special can be escaped; any other backslash is one.
            match escaped.chars().next() {
                Some(next @ ('$' | '\\')) => {
                    out.push(next);
                    rest = &escaped[1..];
                }
                _ => {
                    out.push('\\');
                    rest = escaped;
                }
            }
            continue;
        }
        let after = &special[1..];
        if let Some((value, left)) = braced(after, lookup) {
            out.push_str(&value);
            rest = left;
            continue;
        }
        let name = name_at(after);
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(&lookup(name).unwrap_or_default());
        }
        rest = &after[name.len()..];
    }
    out.push_str(rest);
    out
}

/// `{NAME}`, `{NAME:-word}` or `{NAME:+word}`, and what follows.
fn braced<'t>(text: &'t str, lookup: &dyn Fn(&str) -> Option<String>) -> Option<(String, &'t str)> {
    let inner = text.strip_prefix('{')?;
    let name = name_at(inner);
    if name.is_empty() {
        return None;
    }
    let after = &inner[name.len()..];
    let value = lookup(name).filter(|value| !value.is_empty());
    if let Some(left) = after.strip_prefix('}') {
        return Some((value.unwrap_or_default(), left));
    }
    let (with_default, word) = match (after.strip_prefix(":-"), after.strip_prefix(":+")) {
        (Some(word), _) => (true, word),
        (_, Some(word)) => (false, word),
        _ => return None,
    };
    let end = closing(word)?;
    let (word, left) = (&word[..end], &word[end + 1..]);
    let value = match (with_default, value) {
        (true, Some(value)) => value,
        (false, None) => String::new(),
        (true, None) | (false, Some(_)) => expand(word, lookup),
    };
    Some((value, left))
}

/// Where the brace is that closes; braces of variables in between are theirs.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn name_at(text: &str) -> &str {
    let valid = |(at, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit());
    let length = text.bytes().enumerate().take_while(|&item| valid(item)).count();
    &text[..length]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "LONG_name2" => Some("two".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_and_nothing_runs() {
        for (text, expanded) in [
            ("plain", "plain"),
            ("$A-${A}", "1-1"),
            ("$LONG_name2/x", "two/x"),
            ("$NONE|${NONE}", "|"),
            ("${NONE:-d}${EMPTY:-e}${A:-x}", "de1"),
            ("${A:+yes}${NONE:+no}", "yes"),
            ("${NONE:-${A}b}", "1b"),
            (r"\$A \\ \n", r"$A \ \n"),
            ("$(id) `id` $5 $", "$(id) `id` $5 $"),
            ("${A", "${A"),
            ("${A:?x}", "${A:?x}"),
            ("ü$Aü", "ü1ü"),
        ] {
            assert_eq!(expand(text, &known), expanded, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_expands(text in "[ $\\\\{}:+aAü-]{0,40}") {
            expand(&text, &known);
        }

        #[test]
        fn text_without_variables_stays(text in "[^$\\\\]{0,40}") {
            prop_assert_eq!(expand(&text, &known), text);
        }
    }
}
