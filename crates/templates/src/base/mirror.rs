//! Where the packages come from: the host's own mirror and download settings when it is a Debian host, else Debian's.

use std::process::Command;

/// Debian's public mirror network.
const DEFAULT_ARCHIVE: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY: &str = "http://deb.debian.org/debian-security";

/// Signs the archive; the host's package `debian-archive-keyring`.
pub(super) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Settings of the host's apt that decide whether a download works. They are used while the tree is made.
const HOST_SETTINGS: &[&str] = &[
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::https::CAInfo",
    "Acquire::https::Verify-",
    "Acquire::ForceIPv",
    "Acquire::Retries",
    "Acquire::http::Timeout",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
];

/// Those of them that are right inside a sandbox too: they describe the mirror, not the way to it.
const SANDBOX_SETTINGS: &[&str] = &["Acquire::Check-Valid-Until", "Acquire::Check-Date"];

/// Where to fetch from, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    archive: String,
    security: String,
    settings: Vec<String>,
}

impl Mirror {
    /// As the host's apt is configured.
    pub(super) fn of_host() -> Mirror {
        let targets = output(
            "apt-get",
            &["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
        );
        let settings = output("apt-config", &["dump", "Acquire"]);
        Mirror::from_apt(&targets, &settings)
    }

    fn from_apt(targets: &str, settings: &str) -> Mirror {
        let mut mirror = Mirror {
            archive: DEFAULT_ARCHIVE.to_owned(),
            security: DEFAULT_SECURITY.to_owned(),
            settings: settings
                .lines()
                .filter(|line| HOST_SETTINGS.iter().any(|name| line.starts_with(name)))
                .map(|line| line.trim_end_matches(';').to_owned())
                .collect(),
        };
        for (uri, release) in targets.lines().filter_map(|line| line.split_once(' ')) {
            let uri = uri.trim_end_matches('/');
            // Other archives on the host (Ubuntu's, a company's) do not hold the suite.
            if uri.ends_with("/debian-security") {
                mirror.security = uri.to_owned();
            } else if uri.ends_with("/debian") && !release.ends_with("-security") {
                mirror.archive = uri.to_owned();
            }
        }
        mirror
    }

    /// One-line apt sources for the suite.
    pub(super) fn sources(&self, suite: &str) -> Vec<String> {
        let signed = format!("deb [signed-by={KEYRING}]");
        vec![
            format!("{signed} {} {suite} main", self.archive),
            format!("{signed} {} {suite}-updates main", self.archive),
            format!("{signed} {} {suite}-security main", self.security),
        ]
    }

    /// `Name "value"` options for the apt that makes the tree.
    pub(super) fn settings(&self) -> &[String] {
        &self.settings
    }

    /// Lines for `apt.conf.d` inside the tree.
    pub(super) fn sandbox_settings(&self) -> String {
        let kept = self
            .settings
            .iter()
            .filter(|line| SANDBOX_SETTINGS.iter().any(|name| line.starts_with(name)));
        kept.map(|line| format!("{line};\n")).collect()
    }
}

/// The `debian.sources` of a sandbox: always the public mirror, because a host's own may be out of a sandbox's reach.
pub(super) fn sandbox_sources(suite: &str) -> String {
    format!(
        "Types: deb\nURIs: {DEFAULT_ARCHIVE}\nSuites: {suite} {suite}-updates\nComponents: main\nSigned-By: {KEYRING}\n\n\
         Types: deb\nURIs: {DEFAULT_SECURITY}\nSuites: {suite}-security\nComponents: main\nSigned-By: {KEYRING}\n"
    )
}

/// What a query of the host's package manager prints; nothing when there is none: then the defaults hold.
fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_without_debian_archive_uses_the_public_mirror() {
        let mirror = Mirror::from_apt("http://archive.example/ubuntu/ noble\n", "");
        assert_eq!(
            mirror.sources("trixie")[0],
            format!("deb [signed-by={KEYRING}] {DEFAULT_ARCHIVE} trixie main")
        );
        assert_eq!(mirror.settings(), &[] as &[String]);
    }

    #[test]
    fn mirror_of_the_host_is_used() {
        let targets = "http://mirror.example/debian/ bookworm\nhttp://mirror.example/debian-security/ bookworm-security\n\
                       https://packages.example/x/ cloud\n";
        let sources = Mirror::from_apt(targets, "").sources("trixie");
        assert!(sources[1].ends_with("http://mirror.example/debian trixie-updates main"));
        assert!(sources[2].ends_with("http://mirror.example/debian-security trixie-security main"));
    }

    #[test]
    fn proxy_is_used_for_the_build_but_not_written_into_the_sandbox() {
        let settings = "Acquire \"\";\nAcquire::http::Proxy \"http://10.0.0.1:3142\";\n\
                        Acquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\n";
        let mirror = Mirror::from_apt("", settings);
        assert_eq!(
            mirror.settings(),
            [
                "Acquire::http::Proxy \"http://10.0.0.1:3142\"",
                "Acquire::Check-Valid-Until \"false\""
            ]
        );
        assert_eq!(mirror.sandbox_settings(), "Acquire::Check-Valid-Until \"false\";\n");
    }
}
