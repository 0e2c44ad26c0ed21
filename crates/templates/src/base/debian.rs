//! Makes the Debian tree with `mmdebstrap`, and reads its output for the progress.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::base::mirror::{KEYRING, Mirror};
use crate::base::recipe::{ARCHITECTURE, DPKG_OPTIONS, PACKAGES, SUITE};
use crate::error::{Error, Result};
use crate::exec::{self, Event};
use crate::progress::{Progress, Stage, Update};

/// Installs the packages of the recipe into the empty directory `root`.
pub(super) fn install(root: &Path, mirror: &Mirror, progress: &dyn Progress) -> Result<()> {
    if !Path::new(KEYRING).exists() {
        return Err(Error::MissingProgram {
            program: "debian-archive-keyring".into(),
        });
    }
    let mut reader = Reader::default();
    exec::run(mmdebstrap(root, mirror), |event| match event {
        Event::Line(line) => {
            reader.read(line);
            progress.update(reader.update(line));
        }
        Event::Silent(since) => progress.update(reader.update(&silence(since))),
    })
}

fn mmdebstrap(root: &Path, mirror: &Mirror) -> Command {
    let mut command = Command::new("mmdebstrap");
    command
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The host's choices for its own temporary files and interpreters mean nothing in the tree.
        .env_remove("TMPDIR")
        .args(["--mode=root", "--variant=minbase", "--format=directory", "--verbose"])
        .arg(format!("--architectures={ARCHITECTURE}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--aptopt=Acquire::Languages \"none\"");
    command.args(mirror.settings().iter().map(|setting| format!("--aptopt={setting}")));
    command.args(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}")));
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg(SUITE).arg(root).args(mirror.sources(SUITE));
    command
}

fn silence(since: Duration) -> String {
    format!("still at it ({} s since the last message)", since.as_secs())
}

/// Follows the output. Packages come in two waves, the essential ones and the rest; apt announces the size of the
/// second, and the first is small.
#[derive(Debug, Default)]
struct Reader {
    stage: Option<Stage>,
    done: u64,
    total: Option<u64>,
}

impl Reader {
    fn read(&mut self, line: &str) {
        if line.starts_with("I: running apt-get update") {
            self.enter(Stage::Index);
        } else if let Some(count) = newly_installed(line) {
            self.total = Some(count);
        } else if line.starts_with("Get:") && self.total.is_some() {
            self.step(Stage::Download);
        } else if line.starts_with("Unpacking ") {
            self.step(Stage::Unpack);
        } else if line.starts_with("Setting up ") {
            self.step(Stage::Configure);
        } else if line.starts_with("I: extracting archives") || line.starts_with("I: installing essential") {
            self.enter(Stage::Unpack);
        } else if line.starts_with("I: cleaning") {
            self.total = None;
            self.enter(Stage::Customize);
        }
    }

    fn enter(&mut self, stage: Stage) {
        if self.stage != Some(stage) {
            self.stage = Some(stage);
            self.done = 0;
        }
    }

    fn step(&mut self, stage: Stage) {
        self.enter(stage);
        self.done += 1;
    }

    fn update<'a>(&self, line: &'a str) -> Update<'a> {
        let stage = self.stage.unwrap_or(Stage::Prepare);
        // dpkg switches between unpacking and setting up; a count above the announced one would only confuse.
        let total = self.total.filter(|total| stage != Stage::Index && self.done <= *total);
        Update {
            stage,
            done: self.done,
            total,
            line,
        }
    }
}

/// The number in apt's `0 upgraded, 412 newly installed, 0 to remove …`.
fn newly_installed(line: &str) -> Option<u64> {
    let (before, _) = line.split_once(" newly installed")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_stages_and_counts() {
        let mut reader = Reader::default();
        let mut seen = Vec::new();
        for line in [
            "I: running apt-get update...",
            "Get:1 http://deb.debian.org/debian trixie InRelease [1 kB]",
            "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
            "Get:1 http://deb.debian.org/debian trixie/main amd64 jq amd64 1.7 [1 kB]",
            "Get:2 http://deb.debian.org/debian trixie/main amd64 git amd64 2.47 [1 kB]",
            "Unpacking jq (1.7) ...",
            "Setting up jq (1.7) ...",
            "I: cleaning package lists and apt cache...",
        ] {
            reader.read(line);
            let update = reader.update(line);
            seen.push((update.stage, update.done, update.total));
        }
        assert_eq!(
            seen,
            [
                (Stage::Index, 0, None),
                (Stage::Index, 0, None),
                (Stage::Index, 0, None),
                (Stage::Download, 1, Some(2)),
                (Stage::Download, 2, Some(2)),
                (Stage::Unpack, 1, Some(2)),
                (Stage::Configure, 1, Some(2)),
                (Stage::Customize, 0, None),
            ]
        );
    }
}
