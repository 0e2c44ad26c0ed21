//! A Dockerfile as steps of a build (contract 5.1): what E2B's clients make of it, and with the same limits: one stage, files from the
//! context only.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use parse_dockerfile::{Command, Flag, Instruction, RunInstruction, Source};

use super::words;

/// What decides that a start command from a Dockerfile is ready (contract 5.1).
const READY: &str = "sleep 20";
/// Who sandboxes run as unless the file says otherwise (contract 5.1).
const DEFAULT_USER: &str = "user";
const DEFAULT_WORKDIR: &str = "/home/user";

/// A step of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Goes to the server as it is.
    Plain { kind: &'static str, args: Vec<String> },
    /// Needs files of the context.
    Copy {
        source: String,
        destination: String,
        owner: String,
        mode: String,
    },
}

/// A whole Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) from: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) start_cmd: Option<String>,
    pub(crate) ready_cmd: Option<String>,
    /// Instructions that have no meaning for a sandbox.
    pub(crate) ignored: Vec<&'static str>,
}

fn plain(kind: &'static str, args: impl IntoIterator<Item = impl Into<String>>) -> Step {
    Step::Plain {
        kind,
        args: args.into_iter().map(Into::into).collect(),
    }
}

/// Reads a Dockerfile.
///
/// # Errors
/// It is malformed, or says what a template cannot have.
pub(crate) fn read(text: &str, arguments: &BTreeMap<String, String>) -> anyhow::Result<Plan> {
    let file = parse_dockerfile::parse(text).map_err(|error| {
        let hint = if text.contains("<<") {
            "; a here-document can be the whole of a RUN, as in `RUN <<EOF`, and not the input of a command"
        } else {
            ""
        };
        anyhow::anyhow!("The Dockerfile cannot be read: {error}{hint}")
    })?;
    let mut reader = Reader {
        text,
        arguments,
        variables: BTreeMap::new(),
        plan: None,
        user: false,
        workdir: false,
        entrypoint: None,
        command: None,
    };
    for instruction in &file.instructions {
        reader.read(instruction)?;
    }
    reader.finish()
}

struct Reader<'a> {
    text: &'a str,
    arguments: &'a BTreeMap<String, String>,
    /// Of ARGs before FROM, which only FROM sees.
    variables: BTreeMap<String, String>,
    plan: Option<Plan>,
    user: bool,
    workdir: bool,
    entrypoint: Option<String>,
    command: Option<String>,
}

impl Reader<'_> {
    fn read(&mut self, instruction: &Instruction<'_>) -> anyhow::Result<()> {
        match instruction {
            Instruction::Arg(arg) => return self.arg(&arg.arguments.value),
            Instruction::From(from) => {
                if self.plan.is_some() {
                    bail!("Dockerfiles with several stages cannot be built: a template has one FROM");
                }
                self.plan = Some(Plan {
                    from: self.image(&from.image.value)?,
                    steps: vec![plain("USER", ["root"]), plain("WORKDIR", ["/"])],
                    start_cmd: None,
                    ready_cmd: None,
                    ignored: Vec::new(),
                });
                return Ok(());
            }
            _ => {}
        }
        if self.plan.is_none() {
            bail!("The Dockerfile must begin with FROM");
        }
        match instruction {
            Instruction::Run(run) => {
                let command = self.run(run)?;
                self.push(plain("RUN", [command]));
            }
            Instruction::Copy(copy) => self.copy("COPY", &copy.options, &copy.src, &copy.dest.value)?,
            Instruction::Add(add) => self.copy("ADD", &add.options, &add.src, &add.dest.value)?,
            Instruction::Env(env) => {
                let pairs = words::pairs(&env.arguments.value)?;
                self.push(plain("ENV", pairs.into_iter().flat_map(|(name, value)| [name, value])));
            }
            Instruction::Workdir(workdir) => {
                let path = one("WORKDIR", &workdir.arguments.value)?;
                self.push(plain("WORKDIR", [path]));
                self.workdir = true;
            }
            Instruction::User(user) => {
                let name = one("USER", &user.arguments.value)?;
                self.push(plain("USER", [name]));
                self.user = true;
            }
            Instruction::Cmd(cmd) => self.command = Some(line(&cmd.arguments)),
            Instruction::Entrypoint(entrypoint) => self.entrypoint = Some(line(&entrypoint.arguments)),
            Instruction::Expose(_) => self.ignore("EXPOSE"),
            Instruction::Label(_) => self.ignore("LABEL"),
            Instruction::Maintainer(_) => self.ignore("MAINTAINER"),
            Instruction::Volume(_) => self.ignore("VOLUME"),
            Instruction::Stopsignal(_) => self.ignore("STOPSIGNAL"),
            Instruction::Healthcheck(_) => self.ignore("HEALTHCHECK"),
            Instruction::Onbuild(_) => self.ignore("ONBUILD"),
            Instruction::Shell(_) => bail!("SHELL cannot be used: commands of a template are run by bash"),
            _ => bail!("The Dockerfile has an instruction that a template cannot have"),
        }
        Ok(())
    }

    fn push(&mut self, step: Step) {
        if let Some(plan) = &mut self.plan {
            plan.steps.push(step);
        }
    }

    fn ignore(&mut self, name: &'static str) {
        if let Some(plan) = &mut self.plan
            && !plan.ignored.contains(&name)
        {
            plan.ignored.push(name);
        }
    }

    /// Before FROM: for FROM alone. After it: a variable of the build, which is all that ENV is.
    fn arg(&mut self, text: &str) -> anyhow::Result<()> {
        for word in words::split(text)? {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
                None => (word, None),
            };
            let given = self.arguments.get(&name).cloned();
            let inherited = self.variables.get(&name).cloned();
            let value = given.or(default).or(inherited);
            if self.plan.is_none() {
                self.variables.insert(name, value.unwrap_or_default());
            } else if let Some(value) = value {
                self.push(plain("ENV", [name, value]));
            }
        }
        Ok(())
    }

    /// The image's name, with `$NAME`, `${NAME}` and `${NAME:-default}` replaced.
    fn image(&self, text: &str) -> anyhow::Result<String> {
        let mut image = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            image.push_str(before);
            let (name, default, left) = match after.strip_prefix('{') {
                Some(braced) => {
                    let (inner, left) = braced.split_once('}').context("A brace is not closed in FROM")?;
                    let (name, default) = inner.split_once(":-").unwrap_or((inner, ""));
                    (name, default, left)
                }
                None => {
                    let end = after
                        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                        .unwrap_or(after.len());
                    (&after[..end], "", &after[end..])
                }
            };
            let value = self.variables.get(name).filter(|value| !value.is_empty());
            image.push_str(value.map_or(default, String::as_str));
            rest = left;
        }
        image.push_str(rest);
        if image.is_empty() {
            bail!("FROM names no image");
        }
        Ok(image)
    }

    fn run(&self, run: &RunInstruction<'_>) -> anyhow::Result<String> {
        if let Some(flag) = run.options.iter().find(|flag| flag.name.value != "network") {
            bail!("RUN --{} cannot be used in a template", flag.name.value);
        }
        let Some(last) = run.here_docs.last() else {
            return Ok(line(&run.arguments));
        };
        let Command::Shell(shell) = &run.arguments else {
            bail!("RUN in exec form has no here-document");
        };
        // As it stands in the file: that is how a shell reads it too.
        let whole = self.text.get(shell.span.start..last.span.end).unwrap_or_default();
        let (head, body) = whole.split_once('\n').unwrap_or((whole, ""));
        let only = head.trim();
        let alone = only.is_empty() || only.starts_with("<<") && only.split_whitespace().count() == 1;
        let script = alone && run.here_docs.len() == 1;
        if script {
            let text = run.here_docs.first().map(|doc| doc.value.as_ref()).unwrap_or_default();
            return Ok(text.trim_start_matches('\n').to_owned());
        }
        let end = self.text[last.span.end..].lines().next().unwrap_or_default();
        let terminator = terminator(head);
        // The parser may or may not count the closing word to the document.
        if body.trim_end().ends_with(terminator.as_str()) {
            Ok(whole.to_owned())
        } else if end.trim() == terminator {
            Ok(format!("{whole}{end}\n"))
        } else {
            Ok(format!("{}\n{terminator}\n", whole.trim_end_matches('\n')))
        }
    }

    fn copy(&mut self, what: &str, flags: &[Flag<'_>], sources: &[Source<'_>], destination: &str) -> anyhow::Result<()> {
        let (mut owner, mut mode) = (String::new(), String::new());
        for flag in flags {
            let value = || flag.value.as_ref().map(|value| value.value.to_string()).unwrap_or_default();
            match &*flag.name.value {
                "chown" => owner = value(),
                "chmod" => mode = value(),
                "link" => {}
                "from" => bail!("{what} --from cannot be used: a template has one stage"),
                other => bail!("{what} --{other} cannot be used in a template"),
            }
        }
        if !mode.is_empty() && !mode.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
            bail!("{what} --chmod={mode}: only octal modes can be used");
        }
        if sources.len() > 1 && !destination.ends_with('/') && destination != "." {
            bail!("{what} with several sources needs a destination that ends with a slash");
        }
        for source in sources {
            let Source::Path(path) = source else {
                bail!("{what} with a here-document cannot be used: write the file with RUN");
            };
            if path.value.contains("://") {
                bail!("{what} of a URL cannot be used: fetch it with RUN");
            }
            self.push(Step::Copy {
                source: path.value.to_string(),
                destination: destination.to_owned(),
                owner: owner.clone(),
                mode: mode.clone(),
            });
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Plan> {
        let mut plan = self.plan.context("The Dockerfile has no FROM")?;
        plan.start_cmd = match (self.entrypoint, self.command) {
            (Some(entrypoint), Some(command)) => Some(format!("{entrypoint} {command}")),
            (entrypoint, command) => entrypoint.or(command),
        };
        plan.ready_cmd = plan.start_cmd.is_some().then(|| READY.to_owned());
        if !self.user {
            plan.steps.push(plain("USER", [DEFAULT_USER]));
        }
        if !self.workdir {
            plan.steps.push(plain("WORKDIR", [DEFAULT_WORKDIR]));
        }
        Ok(plan)
    }
}

/// The word that closes the last here-document of a line.
fn terminator(head: &str) -> String {
    let after = head.rsplit("<<").next().unwrap_or_default();
    let word = after.trim_start_matches('-').split_whitespace().next().unwrap_or_default();
    word.trim_matches(['"', '\'']).to_owned()
}

fn one(what: &str, text: &str) -> anyhow::Result<String> {
    match <[String; 1]>::try_from(words::split(text)?) {
        Ok([word]) => Ok(word),
        Err(_) => bail!("{what} takes one argument"),
    }
}

/// A command as a line for a shell.
fn line(command: &Command<'_>) -> String {
    match command {
        Command::Exec(words) => {
            let words: Vec<String> = words.value.iter().map(|word| words::quoted(&word.value)).collect();
            words.join(" ")
        }
        Command::Shell(text) => joined(text.value.trim()),
        _ => String::new(),
    }
}

/// A command without its line breaks; comments between its lines are no part of it.
fn joined(command: &str) -> String {
    let mut line = String::new();
    for (at, part) in command.lines().enumerate() {
        if at > 0 && part.trim_start().starts_with('#') {
            continue;
        }
        line.push_str(part.trim_end().strip_suffix('\\').unwrap_or(part));
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(text: &str) -> Plan {
        read(text, &BTreeMap::new()).unwrap()
    }

    fn refused(text: &str, part: &str) {
        let error = read(text, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }

    #[test]
    fn a_dockerfile_becomes_steps() {
        let plan = plan(
            "FROM ubuntu:22.04\nENV A=1 B=\"two words\"\nWORKDIR /app\nCOPY --chown=user --chmod=0755 a b ./\nRUN echo $A && \\\n  ls\n\
             RUN [\"echo\", \"a b\"]\nEXPOSE 80\nUSER app\nCMD [\"python3\", \"-m\", \"http.server\"]\n",
        );
        assert_eq!(plan.from, "ubuntu:22.04");
        let copy = |source: &str| Step::Copy {
            source: source.into(),
            destination: "./".into(),
            owner: "user".into(),
            mode: "0755".into(),
        };
        assert_eq!(
            plan.steps,
            [
                plain("USER", ["root"]),
                plain("WORKDIR", ["/"]),
                plain("ENV", ["A", "1", "B", "two words"]),
                plain("WORKDIR", ["/app"]),
                copy("a"),
                copy("b"),
                plain("RUN", ["echo $A &&   ls"]),
                plain("RUN", ["echo 'a b'"]),
                plain("USER", ["app"]),
            ]
        );
        assert_eq!(plan.start_cmd.as_deref(), Some("python3 -m http.server"));
        assert_eq!(plan.ready_cmd.as_deref(), Some("sleep 20"));
        assert_eq!(plan.ignored, ["EXPOSE"]);
    }

    #[test]
    fn users_and_directories_end_as_in_other_sandboxes() {
        let steps = plan("FROM base\n").steps;
        assert_eq!(steps[2..], [plain("USER", ["user"]), plain("WORKDIR", ["/home/user"])]);
        assert_eq!(plan("FROM base\n").start_cmd, None);
    }

    #[test]
    fn arguments_reach_the_image_and_the_steps() {
        let given = BTreeMap::from([("TAG".to_owned(), "24.04".to_owned())]);
        let text = "ARG TAG=22.04\nARG NAME=ubuntu\nFROM ${NAME}:$TAG\nARG TAG\nARG X=y\nARG NONE\n";
        let plan = read(text, &given).unwrap();
        assert_eq!(plan.from, "ubuntu:24.04");
        assert_eq!(plan.steps[2..4], [plain("ENV", ["TAG", "24.04"]), plain("ENV", ["X", "y"])]);
        assert_eq!(read("FROM a:${B:-c}\n", &given).unwrap().from, "a:c");
    }

    #[test]
    fn a_here_document_is_a_script() {
        let steps = plan("FROM base\nRUN <<EOF\nset -e\necho one\nEOF\nRUN echo after\n").steps;
        assert_eq!(steps[2], plain("RUN", ["set -e\necho one\n"]));
        assert_eq!(steps[3], plain("RUN", ["echo after"]));
    }

    #[test]
    fn what_a_template_cannot_have_is_refused() {
        refused("FROM a\nFROM b\n", "several stages");
        refused("RUN ls\n", "FROM");
        refused("FROM a AS x\nCOPY --from=x /a /b\n", "one stage");
        refused("FROM a\nADD https://example.com/x /x\n", "URL");
        refused("FROM a\nRUN --mount=type=cache,target=/x ls\n", "--mount");
        refused("FROM a\nCOPY a b /c\n", "ends with a slash");
        refused("FROM a\nCOPY --chmod=u+x a /c\n", "octal");
        refused("FROM a\nSHELL [\"/bin/zsh\"]\n", "SHELL");
        refused("FROM a\nNONSENSE x\n", "cannot be read");
        refused("FROM a\nRUN cat <<EOF > /x\nbody\nEOF\n", "the whole of a RUN");
        refused("", "");
    }

    proptest! {
        #[test]
        fn any_text_is_a_plan_or_an_error(text in "(FROM|RUN|COPY|ENV|ARG|CMD|<<E|E|\\[\"|[ a$=\\\\\n'\"/-]){0,40}") {
            let _ = read(&text, &BTreeMap::new());
            let _ = read(&format!("FROM a\n{text}\n"), &BTreeMap::new());
        }
    }
}
