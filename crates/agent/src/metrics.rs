//! `GET /metrics` (contract 3.3).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use dormouse_agent_proto::rest::Metrics;

use crate::agent::Agent;

const MIB: u64 = 1 << 20;

/// Remembers the processors' counters, to know what changed between two questions.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    last: Mutex<CpuTimes>,
}

/// Clock ticks since boot, all processors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

impl CpuMeter {
    /// Share of all processors that was busy since the last call (at first: since boot), 0 to 100.
    fn used_percent(&self, now: CpuTimes) -> f32 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = now.busy.saturating_sub(last.busy);
        let total = now.total.saturating_sub(last.total);
        *last = now;
        if total == 0 {
            0.0
        } else {
            (busy as f64 * 100.0 / total as f64).min(100.0) as f32
        }
    }
}

/// Answers with the state of the sandbox now.
pub(crate) async fn metrics(State(agent): State<Arc<Agent>>) -> Json<Metrics> {
    // A file system may be slow to answer; `/proc` is not.
    let disk = tokio::task::spawn_blocking(|| rustix::fs::statvfs("/"));
    let disk = disk.await.ok().and_then(Result::ok);
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let memory = Memory::parse(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (disk_total, disk_used) = disk.map_or((0, 0), |disk| {
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        (total, total.saturating_sub(disk.f_bfree.saturating_mul(disk.f_frsize)))
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Json(Metrics {
        ts: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        cpu_count: u32::try_from(cpus).unwrap_or(u32::MAX),
        cpu_used_pct: agent.cpu.used_percent(cpu_times(&stat)),
        mem_total: memory.total,
        mem_used: memory.used(),
        mem_cache: memory.cache,
        mem_total_mib: memory.total / MIB,
        mem_used_mib: memory.used() / MIB,
        disk_used,
        disk_total,
    })
}

/// Reads the first line of `/proc/stat`.
fn cpu_times(stat: &str) -> CpuTimes {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> = line
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(|word| word.parse().unwrap_or(0))
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user time.
    let total = ticks.iter().take(8).fold(0, |sum: u64, tick| sum.saturating_add(*tick));
    let idle = ticks
        .iter()
        .skip(3)
        .take(2)
        .fold(0, |sum: u64, tick| sum.saturating_add(*tick));
    CpuTimes {
        busy: total.saturating_sub(idle),
        total,
    }
}

/// Bytes, from `/proc/meminfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
    cache: u64,
}

impl Memory {
    fn parse(meminfo: &str) -> Self {
        let field = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
            kilobytes.unwrap_or(0).saturating_mul(1024)
        };
        Self {
            total: field("MemTotal:"),
            available: field("MemAvailable:"),
            cache: field("Cached:"),
        }
    }

    fn used(self) -> u64 {
        self.total.saturating_sub(self.available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_between_questions() {
        let meter = CpuMeter::default();
        let at = |stat: &str| meter.used_percent(cpu_times(stat));
        assert!((at("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 1 1 1") - 20.0).abs() < 0.01);
        assert!((at("cpu  60 0 10 130 0 0 0 0 0 0\n") - 50.0).abs() < 0.01);
        assert!(at("cpu  60 0 10 130 0 0 0 0 0 0\n").abs() < 0.01, "no time has passed");
        assert!(at("").abs() < 0.01, "counters can be missing");
    }

    #[test]
    fn reads_memory() {
        let memory = Memory::parse("MemTotal:       1000 kB\nMemAvailable:    600 kB\nCached:          100 kB\n");
        assert_eq!(
            memory,
            Memory {
                total: 1000 << 10,
                available: 600 << 10,
                cache: 100 << 10
            }
        );
        assert_eq!(memory.used(), 400 << 10);
        assert_eq!(Memory::parse("nonsense"), Memory::default());
    }
}
