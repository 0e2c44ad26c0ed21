//! How the agent is started: flags over environment variables over defaults.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use dormouse_agent_proto::AGENT_PORT;

/// Everything that can be chosen when the agent is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Who may use the control routes.
    pub control_peers: Vec<IpAddr>,
    /// Directory of `passwd`, `group`, `hosts` and the like. Only tests change it.
    pub etc: PathBuf,
    /// Directory of `e2b/` and of the socket for sudo. Only tests change it.
    pub run: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, AGENT_PORT).into(),
            control_peers: vec![Ipv4Addr::new(169, 254, 77, 1).into()],
            etc: "/etc".into(),
            run: "/run".into(),
        }
    }
}

/// A flag or variable that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// Unknown flag.
    #[error("unknown flag {0}; known are --listen, --control-peer, --etc and --run")]
    Unknown(String),
    /// A flag at the end of the line.
    #[error("{0} needs a value")]
    NoValue(String),
    /// A value of the wrong form.
    #[error("{name}: {value} is no {expected}")]
    Invalid {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
}

impl Config {
    /// Reads arguments (without the program's name) and variables.
    pub(crate) fn read(
        arguments: impl Iterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (flag, name) in [
            ("--listen", "DORMOUSE_AGENT_LISTEN"),
            ("--control-peer", "DORMOUSE_CONTROL_PEER"),
            ("--etc", "DORMOUSE_AGENT_ETC"),
            ("--run", "DORMOUSE_AGENT_RUN"),
        ] {
            if let Some(value) = variable(name) {
                config.set(flag, &value)?;
            }
        }
        let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
        while let Some(argument) = arguments.next() {
            match argument.split_once('=') {
                Some((flag, value)) => config.set(flag, value)?,
                None => {
                    let value = arguments.next().ok_or_else(|| ConfigError::NoValue(argument.clone()))?;
                    config.set(&argument, &value)?;
                }
            }
        }
        Ok(config)
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<(), ConfigError> {
        let invalid = |name, expected| ConfigError::Invalid {
            name,
            value: value.to_owned(),
            expected,
        };
        match flag {
            "--listen" => {
                self.listen = value
                    .parse()
                    .map_err(|_| invalid("--listen", "address with a port, such as 127.0.0.1:0"))?;
            }
            "--control-peer" => {
                self.control_peers = value
                    .split(',')
                    .map(|peer| peer.trim().parse())
                    .collect::<Result<_, _>>()
                    .map_err(|_| invalid("--control-peer", "list of IP addresses"))?;
            }
            "--etc" => self.etc = value.into(),
            "--run" => self.run = value.into(),
            _ => return Err(ConfigError::Unknown(flag.to_owned())),
        }
        Ok(())
    }

    /// Says whether a connection from `peer` may use the control routes.
    pub(crate) fn is_control(&self, peer: IpAddr) -> bool {
        self.control_peers.contains(&peer.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Config, ConfigError> {
        Config::read(arguments.iter().map(OsString::from), |_| None)
    }

    #[test]
    fn defaults_are_those_of_a_sandbox() {
        let config = read(&[]).expect("valid");
        assert_eq!(config.listen.to_string(), "0.0.0.0:49983");
        assert!(config.is_control("169.254.77.1".parse().expect("address")));
        assert!(config.is_control("::ffff:169.254.77.1".parse().expect("address")));
        assert!(!config.is_control("127.0.0.1".parse().expect("address")));
    }

    #[test]
    fn flags_beat_variables() {
        let config = Config::read(["--listen=127.0.0.1:0".into()].into_iter(), |name| {
            (name == "DORMOUSE_AGENT_LISTEN").then(|| "1.2.3.4:5".to_owned())
        });
        assert_eq!(config.expect("valid").listen.to_string(), "127.0.0.1:0");
        let config = read(&["--control-peer", "127.0.0.1, ::1"]).expect("valid");
        assert_eq!(config.control_peers.len(), 2);
    }

    #[test]
    fn refuses_nonsense() {
        assert!(matches!(read(&["--listen", "here"]), Err(ConfigError::Invalid { .. })));
        assert_eq!(read(&["--listen"]), Err(ConfigError::NoValue("--listen".into())));
        assert_eq!(read(&["--what=x"]), Err(ConfigError::Unknown("--what".into())));
    }
}
