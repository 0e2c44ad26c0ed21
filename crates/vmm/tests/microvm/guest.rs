//! The guest's side: says what it sees on the console, and then what time it is, until it is told to stop.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::mount::{MountFlags, mount};

/// The init of the guest.
pub(crate) fn main() -> ! {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        // Mounted by the kernel already, or missing: what is said below shows it.
        let _ = mount(kind, at, kind, MountFlags::empty(), None);
    }
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    say(&format!(
        "cpus={} clock={} release={}",
        fs::read_to_string("/sys/devices/system/cpu/online")
            .unwrap_or_default()
            .trim(),
        fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .unwrap_or_default()
            .trim(),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    ));
    if command_line.contains("test.off") {
        say("off");
        let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    }
    if command_line.contains("test.restart") {
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    }
    for tick in 0u64.. {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        say(&format!("tick={tick} time={now}"));
        sleep(Duration::from_millis(50));
    }
    unreachable!("the guest is ended from outside");
}

fn say(text: &str) {
    println!("guest: {text}");
}
