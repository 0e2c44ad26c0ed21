//! Tests of the machine monitor with Linux as guest, on any host: QEMU emulates a CPU with SVM, on which a Debian kernel
//! offers a KVM that our monitor boots another Debian kernel on.
//!
//! ```text
//!  this host ── QEMU (TCG) ── Debian kernel, busybox, /dev/kvm ── test program: monitor ── Debian kernel, test program: init
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::run::Step;

/// What is run, and from which package it is.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/bin/busybox", "busybox-static"),
    ("dpkg-deb", "dpkg"),
];
/// KVM in the outer guest, in the order of loading.
const OUTER_MODULES: &[&str] = &["virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-amd.ko"];
/// Where the modules are that the inner guest may load.
const INNER_MODULES: &[&str] = &[
    "drivers/virtio",
    "drivers/block",
    "drivers/net",
    "drivers/char/hw_random",
    "net/vmw_vsock",
    "net/core",
    "fs/overlayfs",
];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// The kernel package of both guests, instead of what `linux-image-cloud-amd64` stands for
    #[arg(long)]
    kernel: Option<String>,
}

/// Runs the tests.
pub(crate) fn test(options: &Options) -> Result<()> {
    for (program, package) in PROGRAMS {
        if Command::new(program).arg("--help").output().is_err() {
            bail!("`{program}` is missing: install the package {package}");
        }
    }
    let work = paths::target().join("microvm");
    fs::create_dir_all(&work)?;
    let kernel = Kernel::fetch(&work, options.kernel.as_deref())?;
    let tests = build(&work)?;
    let archive = outer_guest(&work, &kernel, &tests, options.filter.as_deref().unwrap_or_default())?;
    let outcome = Step::new("tests in QEMU", "qemu-system-x86_64")
        .args(["-accel", "tcg", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", "2000"])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args([
            "-kernel",
            &kernel.image.to_string_lossy(),
            "-initrd",
            &archive.to_string_lossy(),
        ])
        // The check of the timer is a race against the emulation.
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init"])
        .limit(Duration::from_secs(1200))
        .run()?;
    let results = outcome
        .output
        .lines()
        .rev()
        .find(|line| line.contains(" passed, ") && line.contains(" failed"));
    let results = results.context("the tests did not come to their end")?;
    println!("{}", results.trim());
    // The small guests' tests say it in the words of Rust's harness.
    let small_failed = !outcome.output.contains("test result: ok.");
    if small_failed || !results.contains(" 0 failed") || results.trim().starts_with("0 passed") {
        bail!("tests of the machine monitor failed");
    }
    Ok(())
}

/// An unpacked kernel package.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    fn fetch(work: &Path, package: Option<&str>) -> Result<Kernel> {
        let package = match package {
            Some(package) => package.to_owned(),
            None => newest()?,
        };
        let directory = work.join(&package);
        if !directory.join("boot").exists() {
            let download = work.join("download");
            fs::create_dir_all(&download)?;
            Step::new(format!("apt-get download {package}"), "sh")
                .args([
                    "-c",
                    "cd \"$1\" && apt-get download \"$2\" && dpkg-deb -x \"$2\"_*.deb \"$3\" && rm \"$2\"_*.deb",
                    "sh",
                ])
                .args([&download.to_string_lossy(), package.as_str(), &directory.to_string_lossy()])
                .run()?;
        }
        let release = package.strip_prefix("linux-image-").unwrap_or(&package);
        let modules = directory.join("lib/modules").join(release);
        Ok(Kernel {
            image: directory.join(format!("boot/vmlinuz-{release}")),
            modules,
        })
    }
}

/// What `linux-image-cloud-amd64` stands for.
fn newest() -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-cloud-amd64"])
        .output()
        .context("could not run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    package
        .map(str::to_owned)
        .context("linux-image-cloud-amd64 is not in the lists of apt: run `apt-get update`")
}

/// Builds the test programs static, so that they need nothing but a kernel.
fn build(work: &Path) -> Result<Vec<PathBuf>> {
    let outcome = Step::new("static test programs", "cargo")
        .args([
            "test",
            "-p",
            "dormouse-vmm",
            "--test",
            "it",
            "--test",
            "microvm",
            "--no-run",
            "--target",
            TARGET,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", work)
        .limit(Duration::from_secs(1800))
        .run()?;
    let path = |line: &str| Some(PathBuf::from(line.split_once('(')?.1.split_once(')')?.0));
    let lines = outcome.output.lines().filter(|line| line.contains("Executable"));
    let programs: Vec<PathBuf> = lines.filter_map(path).map(|program| paths::root().join(program)).collect();
    if programs.len() != 2 {
        bail!("cargo named {} test programs instead of 2", programs.len());
    }
    Ok(programs)
}

/// The initramfs of the outer guest.
fn outer_guest(work: &Path, kernel: &Kernel, tests: &[PathBuf], filter: &str) -> Result<PathBuf> {
    let root = work.join("outer");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for directory in ["bin", "dev", "proc", "sys", "tmp", "modules/kernel", "outer"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    fs::copy(&kernel.image, root.join("vmlinuz"))?;
    for (program, name) in tests.iter().zip(["it", "microvm"]) {
        Step::new(format!("strip {name}"), "strip")
            .args([Path::new("-o"), &root.join(name), program.as_path()])
            .run()?;
    }
    for module in OUTER_MODULES {
        let from = kernel.modules.join("kernel").join(module);
        let name = from.file_name().context("a module has a name")?;
        copy_module(&from, &root.join("outer").join(name))?;
    }
    let builtin = kernel.modules.join("modules.builtin");
    if builtin.exists() {
        fs::copy(builtin, root.join("modules/modules.builtin"))?;
    }
    for part in INNER_MODULES {
        let from = kernel.modules.join("kernel").join(part);
        if from.exists() {
            let to = root.join("modules/kernel").join(part.replace('/', "-"));
            Step::new(format!("modules of {part}"), "cp")
                .args([Path::new("-r"), &from, &to])
                .quiet()
                .run()?;
        }
    }
    fs::write(root.join("init"), init(filter))?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let archive = work.join("outer.cpio");
    Step::new("initramfs of the outer guest", "sh")
        .args(["-c", "cd \"$1\" && find . | /bin/busybox cpio -o -H newc > \"$2\"", "sh"])
        .args([&root, &archive])
        .run()?;
    Ok(archive)
}

/// Newer kernels have their modules packed; the outer guest loads them plain.
fn copy_module(from: &Path, to: &Path) -> Result<()> {
    if from.exists() {
        fs::copy(from, to)?;
        return Ok(());
    }
    let packed = from.with_extension("ko.xz");
    let output = Command::new("xz")
        .arg("-dc")
        .arg(&packed)
        .output()
        .context("could not run xz")?;
    if !output.status.success() {
        bail!("{} is not in the kernel's package", from.display());
    }
    fs::write(to, output.stdout).with_context(|| format!("could not write {}", to.display()))
}

/// The init of the outer guest: payload tests, then the tests with Linux.
fn init(filter: &str) -> String {
    let filter: String = filter
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        .collect();
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin DORMOUSE_TEST_KERNEL=/vmlinuz DORMOUSE_TEST_MODULES=/modules\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp\n\
         for module in irqbypass kvm kvm-amd; do insmod /outer/$module.ko; done\n\
         /it --test-threads=1 --skip process:: {filter}\n\
         /microvm {filter}\n\
         poweroff -f\n"
    )
}
