//! Names of templates (contract 4.1, 5.2): `[<namespace>/]<alias or id>[:<tag>]`.

use dormouse_store::{BuildRecord, DEFAULT_TAG, Store, TeamId, TemplateRecord};

use crate::error::BuilderError;

/// The namespace of the first team. There are no others yet.
pub const NAMESPACE: &str = "default";

/// Longest name or tag, characters.
const LONGEST: usize = 128;

/// A reference, taken apart and in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The alias or id.
    pub name: String,
    /// The tag, if one is given.
    pub tag: Option<String>,
}

impl Reference {
    /// The tag that is meant.
    #[must_use]
    pub fn tag_or_default(&self) -> &str {
        self.tag.as_deref().unwrap_or(DEFAULT_TAG)
    }
}

/// Takes a name apart.
///
/// # Errors
/// [`BuilderError::Invalid`] with the words of the contract.
pub fn parse(text: &str) -> Result<Reference, BuilderError> {
    let lower = text.trim().to_lowercase();
    if lower.is_empty() {
        return Err(BuilderError::Invalid("Name is required".to_owned()));
    }
    let invalid = |why: &str| BuilderError::Invalid(format!("Invalid name: '{}': {why}", text.trim()));
    let (path, tag) = match lower.split_once(':') {
        None => (&*lower, None),
        Some((path, tag)) => (path, Some(self::tag(tag)?)),
    };
    let name = match path.split_once('/') {
        None => path,
        Some((NAMESPACE, name)) => name,
        Some((namespace, _)) => {
            return Err(invalid(&format!("the namespace '{namespace}' is not yours")));
        }
    };
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(invalid("a name is letters, digits, '-' and '_'"));
    }
    if name.len() > LONGEST {
        return Err(invalid("it is longer than 128 characters"));
    }
    Ok(Reference {
        name: name.to_owned(),
        tag,
    })
}

/// Checks a tag; it comes back in lower case.
///
/// # Errors
/// [`BuilderError::Invalid`] with the words of the contract.
pub fn tag(text: &str) -> Result<String, BuilderError> {
    let lower = text.trim().to_lowercase();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    if lower.is_empty() || lower.len() > LONGEST || !lower.bytes().all(allowed) {
        return Err(BuilderError::Invalid(format!(
            "Invalid tag: '{text}': a tag is at most 128 letters, digits, '-', '_' and '.'"
        )));
    }
    Ok(lower)
}

/// What a reference leads to.
#[derive(Debug)]
pub enum Found {
    /// A build that sandboxes can start from.
    Build(Box<TemplateRecord>, Box<BuildRecord>),
    /// No template that the team may use.
    NoTemplate,
    /// The template has no such tag.
    NoTag(Box<TemplateRecord>),
}

/// Looks a reference up for a team.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, team: TeamId, reference: &Reference) -> Result<Found, BuilderError> {
    let Some(template) = store.template(team, &reference.name).await? else {
        return Ok(Found::NoTemplate);
    };
    if let Some(build) = store.tagged_build(&template, reference.tag_or_default()).await? {
        return Ok(Found::Build(Box::new(template), Box::new(build)));
    }
    // The id of a build stands for itself where a tag is expected (contract 4.1).
    if let Ok(id) = reference.tag_or_default().parse()
        && let Some(build) = store.build(id).await?
        && build.template == template.id
    {
        return Ok(Found::Build(Box::new(template), Box::new(build)));
    }
    Ok(Found::NoTag(Box::new(template)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, Option<&str>), &str>) {
        match (parse(text), expected) {
            (Ok(found), Ok((name, tag))) => {
                assert_eq!((found.name.as_str(), found.tag.as_deref()), (name, tag), "{text}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn names_are_taken_apart() {
        check("web", Ok(("web", None)));
        check(" Web:V1.2 ", Ok(("web", Some("v1.2"))));
        check("default/web:x", Ok(("web", Some("x"))));
        check("", Err("Name is required"));
        check("web:", Err("Invalid tag"));
        check(":x", Err("Invalid name"));
        check("other/web", Err("Invalid name"));
        check("web app", Err("Invalid name"));
        check("a/b/c", Err("Invalid name"));
        check("web:a:b", Err("Invalid tag"));
        check("../x", Err("Invalid name"));
        check(&"x".repeat(129), Err("Invalid name"));
    }
}
