//! What a command line of sudo means here: program, arguments, environment, identity.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::args::{Arguments, Preserve, shell_words};
use super::protocol::{Raw, Start};
use crate::process::launch::{DEFAULT_PATH, find_program};
use crate::users::{Accounts, User};

/// Variables of the caller that a command gets, as Debian's sudo is built; prefixes end in `*`.
const USUAL: [&str; 15] = [
    "COLORS",
    "COLORTERM",
    "DISPLAY",
    "HOSTNAME",
    "KRB5CCNAME",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LINGUAS",
    "LS_COLORS",
    "PS1",
    "PS2",
    "TERM",
    "TZ",
    "XAUTHORITY",
];
/// What a login shell keeps.
const LOGIN: [&str; 4] = ["TERM", "DISPLAY", "COLORTERM", "XAUTHORITY"];

/// A command that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("unknown user {0}")]
    UnknownUser(String),
    #[error("unknown group {0}")]
    UnknownGroup(String),
    #[error("{0}: command not found")]
    NotFound(String),
    #[error("unable to change directory to {0}")]
    NoDirectory(String),
}

/// Who calls, and from where.
#[derive(Debug)]
pub(crate) struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub environment: BTreeMap<OsString, OsString>,
    pub cwd: PathBuf,
}

/// Works out what to start. The terminal is not decided here.
pub(crate) fn resolve(arguments: &Arguments, caller: &Caller, accounts: &Accounts) -> Result<Start, CommandError> {
    let target = target_user(arguments.user.as_deref().unwrap_or("root"), accounts)?;
    let gid = match arguments.group.as_deref() {
        None => target.gid,
        Some(group) => target_group(group, accounts)?,
    };
    let shell = if arguments.login {
        target.shell.clone()
    } else {
        caller_shell(caller, &target)
    };
    let mut environment = environment(arguments, caller, accounts, &target);
    let cwd = working_directory(arguments, caller, &target)?;

    let path = environment
        .get(OsStr::new("PATH"))
        .map(|path| path.to_string_lossy().into_owned());
    let path = path.unwrap_or_else(|| DEFAULT_PATH.to_owned());
    let (program, args) = if arguments.login || arguments.shell {
        with_shell(arguments, &shell)
    } else {
        let name = arguments.command.first().cloned().unwrap_or_default();
        let text = name.to_string_lossy().into_owned();
        let program = find_program(&text, &path, &cwd).map_err(|_| CommandError::NotFound(text))?;
        (program, arguments.command.clone())
    };
    let described = std::iter::once(program.as_os_str()).chain(args.iter().skip(1).map(OsString::as_os_str));
    let described = described.collect::<Vec<_>>().join(OsStr::new(" "));
    environment.insert("SUDO_COMMAND".into(), described);

    let mut groups = accounts.groups_of(&target);
    if let Some(first) = groups.first_mut() {
        *first = gid;
    }
    Ok(Start {
        program: program.as_path().into(),
        args: args.into_iter().map(Raw::from).collect(),
        envs: environment
            .into_iter()
            .map(|(name, value)| assignment(name, &value))
            .collect(),
        cwd: cwd.as_path().into(),
        uid: target.uid,
        gid,
        groups,
        terminal: None,
        detached: arguments.background,
    })
}

fn target_user(name: &str, accounts: &Accounts) -> Result<User, CommandError> {
    let unknown = || CommandError::UnknownUser(name.to_owned());
    match name.strip_prefix('#') {
        None => accounts.user(name).map_err(|_| unknown()),
        Some(number) => {
            let uid = number.parse().map_err(|_| unknown())?;
            let nobody = || User {
                name: number.to_owned(),
                uid,
                gid: uid,
                home: "/".to_owned(),
                shell: "/bin/sh".to_owned(),
            };
            Ok(accounts.user_by_id(uid).cloned().unwrap_or_else(nobody))
        }
    }
}

fn target_group(name: &str, accounts: &Accounts) -> Result<u32, CommandError> {
    let number = name.strip_prefix('#').and_then(|number| number.parse().ok());
    let found = number.or_else(|| accounts.group_id(name));
    found.ok_or_else(|| CommandError::UnknownGroup(name.to_owned()))
}

fn caller_shell(caller: &Caller, target: &User) -> String {
    let own = caller
        .environment
        .get(OsStr::new("SHELL"))
        .map(|shell| shell.to_string_lossy().into_owned());
    own.filter(|shell| !shell.is_empty()).unwrap_or_else(|| target.shell.clone())
}

fn with_shell(arguments: &Arguments, shell: &str) -> (PathBuf, Vec<OsString>) {
    let base = Path::new(shell).file_name().unwrap_or(OsStr::new(shell));
    let mut zeroth = OsString::new();
    if arguments.login {
        // How a shell is told that it is a login shell.
        zeroth.push("-");
    }
    zeroth.push(base);
    let mut args = vec![zeroth];
    if !arguments.command.is_empty() {
        args.push("-c".into());
        args.push(shell_words(&arguments.command));
    }
    (shell.into(), args)
}

fn working_directory(arguments: &Arguments, caller: &Caller, target: &User) -> Result<PathBuf, CommandError> {
    let chosen = match &arguments.directory {
        Some(directory) => caller.cwd.join(directory),
        None if arguments.login => {
            // A login without a home still logs in.
            let home = PathBuf::from(&target.home);
            if home.is_dir() { home } else { "/".into() }
        }
        None => return Ok(caller.cwd.clone()),
    };
    if chosen.is_dir() {
        Ok(chosen)
    } else {
        Err(CommandError::NoDirectory(chosen.display().to_string()))
    }
}

fn environment(arguments: &Arguments, caller: &Caller, accounts: &Accounts, target: &User) -> BTreeMap<OsString, OsString> {
    let all = arguments.preserve == Preserve::All && !arguments.login;
    let kept = caller.environment.iter().filter(|(name, _)| match &arguments.preserve {
        _ if all => true,
        Preserve::These(names) if names.contains(name) => true,
        _ if arguments.login => LOGIN.iter().any(|kept| matches(kept, name)),
        _ => USUAL.iter().any(|kept| matches(kept, name)),
    });
    let mut environment: BTreeMap<OsString, OsString> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut set = |name: &str, value: &str| drop(environment.insert(name.into(), value.into()));
    set("PATH", DEFAULT_PATH);
    if !all || arguments.set_home {
        set("HOME", &target.home);
    }
    set("USER", &target.name);
    set("LOGNAME", &target.name);
    if !all {
        set("SHELL", &target.shell);
        set("MAIL", &format!("/var/mail/{}", target.name));
    }
    set("SUDO_USER", &accounts.user_name(caller.uid));
    set("SUDO_UID", &caller.uid.to_string());
    set("SUDO_GID", &caller.gid.to_string());
    for variable in &arguments.variables {
        let bytes = variable.as_bytes();
        if let Some(equals) = bytes.iter().position(|byte| *byte == b'=') {
            let (name, value) = bytes.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            environment.insert(OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned());
        }
    }
    environment
}

fn matches(pattern: &str, name: &OsStr) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
        None => name == pattern,
    }
}

fn assignment(name: OsString, value: &OsStr) -> Raw {
    let mut bytes = name.into_vec();
    bytes.push(b'=');
    bytes.extend_from_slice(value.as_bytes());
    Raw(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sudo::args::parse;

    const PASSWD: &str = "root:x:0:0::/root:/bin/bash\nuser:x:1000:1000::/tmp:/bin/bash\napp:x:33:33::/srv:/bin/sh\n";
    const GROUP: &str = "sudo:x:27:user\nweb:x:80:app\n";

    fn check(line: &[&str]) -> Result<(Start, BTreeMap<String, String>), CommandError> {
        let variables = [
            ("TERM", "xterm"),
            ("SECRET", "s"),
            ("SHELL", "/bin/bash"),
            ("HOME", "/tmp"),
            ("LC_ALL", "C"),
        ];
        let caller = Caller {
            uid: 1000,
            gid: 1000,
            environment: variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            cwd: "/tmp".into(),
        };
        let arguments = parse(line.iter().map(OsString::from)).expect("valid");
        let start = resolve(&arguments, &caller, &Accounts::parse(PASSWD, GROUP))?;
        let environment = start.envs.iter().map(|raw| {
            let text = String::from_utf8(raw.0.clone()).expect("text");
            let (name, value) = text.split_once('=').expect("an assignment");
            (name.to_owned(), value.to_owned())
        });
        let environment = environment.collect();
        Ok((start, environment))
    }

    fn get<'a>(environment: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
        environment.get(name).map(String::as_str)
    }

    #[test]
    fn resets_the_environment() {
        let (start, env) = check(&["-n", "X=1", "sh", "-c", "id"]).expect("valid");
        assert_eq!((start.uid, start.gid, start.cwd), (0, 0, Raw::from("/tmp")));
        for (name, value) in [
            ("HOME", Some("/root")),
            ("USER", Some("root")),
            ("LOGNAME", Some("root")),
            ("PATH", Some(DEFAULT_PATH)),
            ("TERM", Some("xterm")),
            ("LC_ALL", Some("C")),
            ("SECRET", None),
            ("X", Some("1")),
            ("SUDO_USER", Some("user")),
            ("SUDO_UID", Some("1000")),
            ("SUDO_GID", Some("1000")),
        ] {
            assert_eq!(get(&env, name), value, "{name}");
        }
        assert!(get(&env, "SUDO_COMMAND").is_some_and(|command| command.ends_with("/sh -c id")));
    }

    #[test]
    fn keeps_what_it_is_told_to() {
        let (_, env) = check(&["-E", "sh"]).expect("valid");
        assert_eq!((get(&env, "SECRET"), get(&env, "HOME")), (Some("s"), Some("/tmp")));
        let (_, env) = check(&["-EH", "sh"]).expect("valid");
        assert_eq!(get(&env, "HOME"), Some("/root"));
        let (_, env) = check(&["--preserve-env=SECRET", "sh"]).expect("valid");
        assert_eq!((get(&env, "SECRET"), get(&env, "HOME")), (Some("s"), Some("/root")));
    }

    #[test]
    fn becomes_other_users() {
        let (start, env) = check(&["-u", "app", "sh"]).expect("valid");
        assert_eq!((start.uid, start.gid, start.groups), (33, 33, vec![33, 80]));
        assert_eq!(get(&env, "HOME"), Some("/srv"));
        let (start, _) = check(&["-u#4242", "sh"]).expect("valid");
        assert_eq!(start.uid, 4242);
        let (start, _) = check(&["-g", "web", "sh"]).expect("valid");
        assert_eq!((start.uid, start.gid), (0, 80));
        assert_eq!(
            check(&["-u", "nobody", "sh"]).expect_err("unknown").to_string(),
            "unknown user nobody"
        );
    }

    #[test]
    fn shells_are_told_what_they_are() {
        let (start, env) = check(&["-i"]).expect("valid");
        assert_eq!(
            (start.program, start.args),
            (Raw::from("/bin/bash"), vec![Raw::from("-bash")])
        );
        assert_eq!((get(&env, "LC_ALL"), get(&env, "TERM")), (None, Some("xterm")));
        let (start, _) = check(&["-s", "echo", "a b"]).expect("valid");
        assert_eq!(start.args, [Raw::from("bash"), Raw::from("-c"), Raw::from(r"echo a\ b")]);
    }

    #[test]
    fn unknown_commands_are_named() {
        let error = check(&["no-such-command"]).expect_err("missing");
        assert_eq!(error.to_string(), "no-such-command: command not found");
    }
}
