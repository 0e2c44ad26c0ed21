//! sudo's command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// What sudo is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Run,
    /// `-v`, `-k`, `-K`: about the password that nobody needs.
    Validate,
    Forget,
    List,
    Version,
    Help,
}

/// Which of the caller's variables the command gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Preserve {
    #[default]
    Usual,
    All,
    These(Vec<OsString>),
}

/// A command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub action: Action,
    pub user: Option<String>,
    pub group: Option<String>,
    pub login: bool,
    pub shell: bool,
    pub set_home: bool,
    pub background: bool,
    pub preserve: Preserve,
    pub directory: Option<OsString>,
    /// `NAME=value` before the command.
    pub variables: Vec<OsString>,
    pub command: Vec<OsString>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            action: Action::Run,
            user: None,
            group: None,
            login: false,
            shell: false,
            set_home: false,
            background: false,
            preserve: Preserve::Usual,
            directory: None,
            variables: Vec::new(),
            command: Vec::new(),
        }
    }
}

/// A command line that sudo does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("invalid option -- '{0}'")]
    Short(char),
    #[error("unrecognized option '--{0}'")]
    Long(String),
    #[error("option requires an argument -- '{0}'")]
    NoValue(String),
    #[error("editing files ('-e') is not supported in this sandbox")]
    Edit,
    #[error("a command is needed")]
    NoCommand,
}

/// Short options that take a value, with their long names.
const VALUED: [(char, &str); 11] = [
    ('u', "user"),
    ('g', "group"),
    ('D', "chdir"),
    ('p', "prompt"),
    ('C', "close-from"),
    ('h', "host"),
    ('R', "chroot"),
    ('T', "command-timeout"),
    ('U', "other-user"),
    ('r', "role"),
    ('t', "type"),
];

/// Options without a value.
const PLAIN: [(char, &str); 15] = [
    ('A', "askpass"),
    ('b', "background"),
    ('B', "bell"),
    ('E', "preserve-env"),
    ('e', "edit"),
    ('H', "set-home"),
    ('i', "login"),
    ('K', "remove-timestamp"),
    ('k', "reset-timestamp"),
    ('l', "list"),
    ('n', "non-interactive"),
    ('P', "preserve-groups"),
    ('S', "stdin"),
    ('s', "shell"),
    ('v', "validate"),
];

/// Reads the arguments after the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, ArgumentError> {
    let mut parsed = Arguments::default();
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next_if(|argument| argument.as_bytes().starts_with(b"-") && argument.len() > 1) {
        if argument == "--" {
            break;
        }
        let text = argument.to_string_lossy().into_owned();
        match text.strip_prefix("--") {
            Some(long) => parsed.long(long, || rest.next())?,
            None => parsed.short_cluster(text.strip_prefix('-').unwrap_or_default(), || rest.next())?,
        }
    }
    // Options end at the first word, so what looks like one behind a variable belongs to the command.
    while let Some(variable) = rest.next_if(|argument| is_assignment(argument)) {
        parsed.variables.push(variable);
    }
    parsed.command = rest.collect();
    let idle = parsed.action == Action::Run && parsed.command.is_empty() && !parsed.login && !parsed.shell;
    if idle { Err(ArgumentError::NoCommand) } else { Ok(parsed) }
}

impl Arguments {
    fn long(&mut self, long: &str, mut next: impl FnMut() -> Option<OsString>) -> Result<(), ArgumentError> {
        let (name, given) = match long.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (long, None),
        };
        if let ("preserve-env", Some(list)) = (name, &given) {
            let names = list.as_bytes().split(|byte| *byte == b',');
            self.preserve = Preserve::These(names.map(|name| OsStr::from_bytes(name).to_owned()).collect());
            return Ok(());
        }
        if let Some((letter, _)) = VALUED.iter().find(|(_, long)| *long == name) {
            let value = given.or_else(&mut next);
            return self.valued(*letter, value.ok_or_else(|| ArgumentError::NoValue(name.to_owned()))?);
        }
        match (name, PLAIN.iter().find(|(_, long)| *long == name)) {
            ("version", _) => self.action = Action::Version,
            ("help", _) => self.action = Action::Help,
            (_, Some((letter, _))) => self.plain(*letter)?,
            (_, None) => return Err(ArgumentError::Long(name.to_owned())),
        }
        Ok(())
    }

    fn short_cluster(&mut self, cluster: &str, mut next: impl FnMut() -> Option<OsString>) -> Result<(), ArgumentError> {
        for (at, letter) in cluster.char_indices() {
            if VALUED.iter().any(|(short, _)| *short == letter) {
                let attached = cluster.get(at + letter.len_utf8()..).unwrap_or_default();
                let value = if attached.is_empty() { next() } else { Some(attached.into()) };
                return match value {
                    Some(value) => self.valued(letter, value),
                    // `-h` alone asks for help.
                    None if letter == 'h' => {
                        self.action = Action::Help;
                        Ok(())
                    }
                    None => Err(ArgumentError::NoValue(letter.to_string())),
                };
            }
            match letter {
                'V' => self.action = Action::Version,
                letter => self.plain(letter)?,
            }
        }
        Ok(())
    }

    fn valued(&mut self, letter: char, value: OsString) -> Result<(), ArgumentError> {
        match letter {
            'u' => self.user = Some(value.to_string_lossy().into_owned()),
            'g' => self.group = Some(value.to_string_lossy().into_owned()),
            'D' => self.directory = Some(value),
            'R' | 'r' | 't' => return Err(ArgumentError::Short(letter)),
            // About passwords, other hosts and limits that do not exist here.
            _ => {}
        }
        Ok(())
    }

    fn plain(&mut self, letter: char) -> Result<(), ArgumentError> {
        match letter {
            'E' => self.preserve = Preserve::All,
            'H' => self.set_home = true,
            'i' => self.login = true,
            's' => self.shell = true,
            'b' => self.background = true,
            'l' => self.action = Action::List,
            'v' => self.action = Action::Validate,
            'K' => self.action = Action::Forget,
            // Alone it forgets the password; with a command it is about asking for it.
            'k' if self.action == Action::Run => {}
            'e' => return Err(ArgumentError::Edit),
            'A' | 'B' | 'k' | 'n' | 'P' | 'S' => {}
            other => return Err(ArgumentError::Short(other)),
        }
        Ok(())
    }
}

fn is_assignment(argument: &OsStr) -> bool {
    let bytes = argument.as_bytes();
    let name = bytes.split(|byte| *byte == b'=').next().unwrap_or_default();
    name.len() < bytes.len() && !name.is_empty() && !name.contains(&b'/')
}

/// Joins words into one that a shell reads as these words again, as sudo does for `-s` and `-i`.
pub(crate) fn shell_words(words: &[OsString]) -> OsString {
    let mut joined = Vec::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            joined.push(b' ');
        }
        for byte in word.as_bytes() {
            if !(byte.is_ascii_alphanumeric() || b"_-$".contains(byte)) {
                joined.push(b'\\');
            }
            joined.push(*byte);
        }
    }
    OsString::from_vec(joined)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Result<Arguments, ArgumentError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn options_end_at_the_command() {
        let parsed = read("-u app -nE ls -u x").expect("valid");
        assert_eq!((parsed.user.as_deref(), &parsed.preserve), (Some("app"), &Preserve::All));
        assert_eq!(parsed.command, words("ls -u x"));
        let parsed = read("-n -- -strange").expect("valid");
        assert_eq!(parsed.command, words("-strange"));
    }

    #[test]
    fn values_may_be_attached() {
        for line in ["-uapp id", "-nuapp id", "--user=app id", "--user app id", "-u app id"] {
            assert_eq!(read(line).expect("valid").user.as_deref(), Some("app"), "{line}");
        }
        assert_eq!(read("-u"), Err(ArgumentError::NoValue("u".into())));
    }

    #[test]
    fn variables_come_before_the_command() {
        let parsed = read("-E A=1 B= env C=3").expect("valid");
        assert_eq!((parsed.variables, parsed.command), (words("A=1 B="), words("env C=3")));
        assert_eq!(read("./a=b").expect("valid").command, words("./a=b"));
    }

    #[test]
    fn some_actions_need_no_command() {
        assert_eq!(read("-v").expect("valid").action, Action::Validate);
        assert_eq!(read("-l").expect("valid").action, Action::List);
        assert_eq!(read("--version").expect("valid").action, Action::Version);
        assert!(read("-i").expect("valid").login);
        assert!(read("-s").expect("valid").shell);
        assert_eq!(read(""), Err(ArgumentError::NoCommand));
        assert_eq!(read("-n"), Err(ArgumentError::NoCommand));
        assert_eq!(read("-e /etc/hosts"), Err(ArgumentError::Edit));
        assert_eq!(read("-Z id"), Err(ArgumentError::Short('Z')));
        assert_eq!(read("--wat id"), Err(ArgumentError::Long("wat".into())));
    }

    #[test]
    fn some_variables_can_be_named() {
        let parsed = read("--preserve-env=A,B env").expect("valid");
        assert_eq!(parsed.preserve, Preserve::These(words("A B")));
        assert_eq!(read("--preserve-env env").expect("valid").preserve, Preserve::All);
    }

    #[test]
    fn shells_get_their_words_back() {
        assert_eq!(
            shell_words(&words("echo a;b $HOME x-y_z")),
            OsStr::new(r"echo a\;b $HOME x-y_z")
        );
    }

    proptest! {
        #[test]
        fn takes_any_line(line in proptest::collection::vec(".*", 0..6)) {
            let _ = parse(line.into_iter().map(OsString::from));
        }
    }
}
