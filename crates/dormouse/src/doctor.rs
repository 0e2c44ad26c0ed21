//! `dormouse doctor`: looks at the host and explains, changing nothing.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::host::{find_program, find_runsc};

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

impl Check {
    fn new(name: &'static str, found: Result<String, String>, hint: &'static str) -> Self {
        match found {
            Ok(found) => Self {
                name,
                ok: true,
                found,
                hint: None,
            },
            Err(found) => Self {
                name,
                ok: false,
                found,
                hint: Some(hint),
            },
        }
    }
}

pub(crate) async fn doctor(arguments: DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.settings)?;
    let checks = checks(&config).await?;
    let well = checks.iter().all(|check| check.ok);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&checks)?);
    } else {
        for check in &checks {
            println!(
                "{:<5} {:<12} {}",
                if check.ok { "ok" } else { "FAIL" },
                check.name,
                check.found
            );
            if let Some(hint) = check.hint {
                println!("      {:<12} {hint}", "");
            }
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn checks(config: &Config) -> anyhow::Result<Vec<Check>> {
    let install = "`dormouse setup` installs it";
    let program = |name: &str| {
        find_program(name)
            .map(|path| path.display().to_string())
            .ok_or_else(|| "not on PATH".to_owned())
    };
    let data = DataDir::open(&config.data_dir)?;
    let mut checks = vec![
        Check::new("root", root(), "run dormouse with sudo: namespaces and cgroups need it"),
        Check::new("engine", engine(config).await, install),
        Check::new("nftables", program("nft"), install),
        Check::new("iproute2", program("ip"), install),
        Check::new("mmdebstrap", program("mmdebstrap"), install),
        Check::new(
            "cgroups",
            cgroups(),
            "mount cgroup v2 at /sys/fs/cgroup, or the v1 hierarchies cpu, memory, pids and freezer",
        ),
        Check::new(
            "disk",
            disk(&config.data_dir),
            "free some space, or choose another place with --data-dir",
        ),
        Check::new("base", base(&data), "`dormouse setup` makes it"),
    ];
    if config.tls.is_some() {
        let hint = "lead *.<domain> to this host in your DNS, or let --dns-listen answer; see docs/tls.md";
        checks.push(Check::new("names", names(config).await, hint));
    }
    Ok(checks)
}

/// Whether clients on this host find the base domains.
async fn names(config: &Config) -> Result<String, String> {
    let mut found = Vec::new();
    for domain in &config.domains {
        let name = format!("api.{domain}");
        let mut addresses = tokio::net::lookup_host((name.as_str(), 443))
            .await
            .map_err(|error| format!("{name} leads nowhere ({error})"))?;
        let address = addresses.next().ok_or_else(|| format!("{name} has no address"))?;
        found.push(format!("{name} leads to {}", address.ip()));
    }
    Ok(found.join(", "))
}

fn root() -> Result<String, String> {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        Ok("running as root".to_owned())
    } else {
        Err(format!("running as user {user}"))
    }
}

/// Which engine sandboxes get here, and why.
async fn engine(config: &Config) -> Result<String, String> {
    let runsc = find_runsc(config).map_err(|error| format!("{error:#}"))?;
    let output = tokio::process::Command::new(&runsc)
        .arg("--version")
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let version = String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let kvm = if Path::new("/dev/kvm").exists() {
        "/dev/kvm exists, but the microVM engine is not built yet"
    } else {
        "no /dev/kvm"
    };
    Ok(format!("gvisor: {version} at {} ({kvm})", runsc.display()))
}

fn cgroups() -> Result<String, String> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Ok("version 2".to_owned());
    }
    let missing: Vec<_> = ["cpu", "memory", "pids", "freezer"]
        .into_iter()
        .filter(|name| !root.join(name).is_dir())
        .collect();
    if missing.is_empty() {
        Ok("version 1".to_owned())
    } else {
        Err(format!("version 1 without {}", missing.join(", ")))
    }
}

fn disk(data_dir: &Path) -> Result<String, String> {
    const NEEDED: u64 = 4 << 30;
    let room = nix::sys::statvfs::statvfs(data_dir).map_err(|error| error.to_string())?;
    let free = room.blocks_available() * room.fragment_size();
    let text = format!(
        "{:.1} GiB free at {}",
        free as f64 / f64::from(1u32 << 30),
        data_dir.display()
    );
    if free >= NEEDED { Ok(text) } else { Err(text) }
}

fn base(data: &DataDir) -> Result<String, String> {
    let builds = dormouse_templates::base::list(&data.templates()).map_err(|error| error.to_string())?;
    match builds.as_slice() {
        [] => Err("no base template yet".to_owned()),
        builds => Ok(format!("{} build(s) of the base template", builds.len())),
    }
}
