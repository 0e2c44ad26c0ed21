//! The steps of a build as they come (contract 5.1 step 3), and as they are meant (5.3).

use dormouse_rootfs::confined;
use serde::Deserialize;

use crate::error::BuilderError;
use crate::uploads::is_hash;

/// What a build begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Another template's build: name, id, with or without a tag.
    Template(String),
    /// An image.
    Image(String),
}

/// What a build is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildSpec {
    /// What it begins with.
    pub from: From,
    /// Whether nothing is taken from the cache.
    pub force: bool,
    /// The steps.
    pub steps: Vec<StepSpec>,
    /// The command that runs in every sandbox from its first moment.
    pub start_cmd: Option<String>,
    /// What succeeds once the start command is ready.
    pub ready_cmd: Option<String>,
}

/// A step as clients send it. Fields that are not listed are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepSpec {
    /// `RUN`, `COPY`, `ENV`, `WORKDIR` or `USER`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// The archive of a COPY.
    #[serde(default)]
    pub files_hash: Option<String>,
    /// Whether this step and those after it are not taken from the cache.
    #[serde(default)]
    pub force: bool,
}

/// A step that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Run {
        command: String,
        /// Instead of the context's.
        user: Option<String>,
    },
    Copy {
        source: String,
        destination: String,
        owner: Option<String>,
        mode: Option<u32>,
        hash: String,
    },
    Env(Vec<(String, String)>),
    Workdir(String),
    User(String),
}

impl Step {
    /// Reads a step.
    ///
    /// # Errors
    /// What is wrong with it, for its owner.
    pub(crate) fn read(spec: &StepSpec) -> Result<Self, String> {
        let kind = spec.kind.to_uppercase();
        let arg = |n: usize| spec.args.get(n).map(String::as_str).filter(|arg| !arg.is_empty());
        match &*kind {
            "RUN" => Ok(Self::Run {
                command: arg(0).ok_or("RUN requires a command")?.to_owned(),
                user: arg(1).map(str::to_owned),
            }),
            "COPY" => {
                let (Some(source), Some(destination)) = (arg(0), arg(1)) else {
                    return Err("COPY requires a source and a destination".to_owned());
                };
                let hash = spec.files_hash.as_deref().ok_or("COPY requires files hash to be set")?;
                if !is_hash(hash) {
                    return Err(format!("COPY has an invalid files hash: '{hash}'"));
                }
                let mode = match arg(3) {
                    None => None,
                    Some(text) => {
                        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
                        Some(mode.ok_or_else(|| format!("COPY has an invalid mode: '{text}'"))?)
                    }
                };
                Ok(Self::Copy {
                    source: source.to_owned(),
                    destination: destination.to_owned(),
                    owner: arg(2).map(str::to_owned),
                    mode,
                    hash: hash.to_owned(),
                })
            }
            "ENV" | "ARG" => {
                if spec.args.is_empty() || !spec.args.len().is_multiple_of(2) {
                    return Err(format!("{kind} requires an even number of arguments"));
                }
                let pairs: Vec<_> = spec
                    .args
                    .chunks_exact(2)
                    .map(|pair| (pair[0].clone(), pair[1].clone()))
                    .collect();
                match pairs.iter().find(|(name, _)| name.is_empty() || name.contains(['=', '\0'])) {
                    Some((name, _)) => Err(format!("{kind} has an invalid name: '{name}'")),
                    None => Ok(Self::Env(pairs)),
                }
            }
            "WORKDIR" => Ok(Self::Workdir(arg(0).ok_or("WORKDIR requires a path")?.to_owned())),
            "USER" => Ok(Self::User(arg(0).ok_or("USER requires a name")?.to_owned())),
            _ => Err(format!("unknown instruction: '{}'", spec.kind)),
        }
    }
}

impl BuildSpec {
    /// Checks what can be checked before the build runs.
    pub(crate) fn check(&self, most_steps: usize) -> Result<(), BuilderError> {
        let (From::Template(from) | From::Image(from)) = &self.from;
        if from.trim().is_empty() {
            return Err(BuilderError::Invalid(
                "Either fromImage or fromTemplate must be set".to_owned(),
            ));
        }
        if self.steps.len() > most_steps {
            return Err(BuilderError::Invalid(format!("A build has at most {most_steps} steps")));
        }
        Ok(())
    }
}

/// The part of a COPY's source before its first wildcard (contract 5.3): a path inside the archive.
pub(crate) fn plain_prefix(source: &str) -> String {
    let parts = confined::names(std::path::Path::new(source));
    let plain = parts
        .iter()
        .map(|part| part.to_string_lossy())
        .take_while(|part| !part.contains(['*', '?', '[', '{']));
    plain.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: &str, args: &[&str]) -> StepSpec {
        StepSpec {
            kind: kind.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            files_hash: None,
            force: false,
        }
    }

    #[test]
    fn steps_are_read_as_clients_send_them() {
        let run: StepSpec =
            serde_json::from_str(r#"{"type":"RUN","args":["ls","root"],"forceUpload":null,"gzip":true}"#).unwrap();
        assert_eq!(
            Step::read(&run),
            Ok(Step::Run {
                command: "ls".into(),
                user: Some("root".into())
            })
        );
        let mut copy = step("COPY", &["folder/*", "dst", "", "0755"]);
        assert_eq!(Step::read(&copy), Err("COPY requires files hash to be set".to_owned()));
        copy.files_hash = Some("a".repeat(64));
        assert_eq!(
            Step::read(&copy),
            Ok(Step::Copy {
                source: "folder/*".into(),
                destination: "dst".into(),
                owner: None,
                mode: Some(0o755),
                hash: "a".repeat(64),
            })
        );
    }

    #[test]
    fn steps_that_make_no_sense_are_refused() {
        for (kind, args, part) in [
            ("RUN", &[][..], "requires a command"),
            ("ENV", &["A"], "even number"),
            ("ENV", &["A=B", "c"], "invalid name"),
            ("USER", &[""], "requires a name"),
            ("VOLUME", &["/x"], "unknown instruction"),
            ("COPY", &["x"], "a source and a destination"),
        ] {
            let error = Step::read(&step(kind, args)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let mut copy = step("COPY", &["a", "b", "", "0999"]);
        copy.files_hash = Some("../../etc".to_owned());
        assert!(Step::read(&copy).unwrap_err().contains("invalid files hash"));
        copy.files_hash = Some("a".repeat(64));
        assert!(Step::read(&copy).unwrap_err().contains("invalid mode"));
    }

    #[test]
    fn a_source_ends_at_its_first_wildcard() {
        for (source, prefix) in [
            ("folder/*", "folder"),
            ("*.txt", ""),
            ("a/b?/c", "a"),
            (".", ""),
            ("./a/b.txt", "a/b.txt"),
            ("a/**/b", "a"),
            ("../../a", "a"),
        ] {
            assert_eq!(plain_prefix(source), prefix, "{source}");
        }
    }
}
