//! How much memory queries may use, and how much the process has allocated.

use std::alloc::System;

use cap::Cap;
use skep_common::{ByteSize, Error, Result};
use skep_engine::memory::{Allocations, Memory};

/// The system's allocator, counted.
#[global_allocator]
static ALLOCATED: Cap<System> = Cap::new(System, usize::MAX);

/// What queries may have allocated at least beside what their operators account for.
const BESIDE_MIN: ByteSize = ByteSize::mib(512);

/// The memory of this process.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) if the limit is less than the budget.
pub(crate) fn of_process(budget: Option<ByteSize>, limit: Option<ByteSize>) -> Result<Memory> {
    let budget = self::budget(budget);
    let limit =
        limit.unwrap_or_else(|| ByteSize(budget.bytes() + (budget.bytes() / 3).max(BESIDE_MIN.bytes())));
    if limit.bytes() < budget.bytes() {
        return Err(Error::invalid(format!(
            "the memory limit of the process, {limit}, is less than its memory for queries, {budget}"
        ))
        .hint("raise memory_limit (--memory-limit), or lower memory (--memory)"));
    }
    let memory = Memory::new(budget, Some(Allocations { now: || ALLOCATED.allocated(), limit }));
    memory.watch();
    Ok(memory)
}

/// The share of the machine's memory that queries get when nobody says more.
const SHARE_PERCENT: u64 = 60;
/// Where the machine does not say what it has.
const FALLBACK: ByteSize = ByteSize::gib(2);

/// `wanted`, or a share of the machine's memory or of the container's limit, whichever is less.
pub(crate) fn budget(wanted: Option<ByteSize>) -> ByteSize {
    if let Some(wanted) = wanted {
        return wanted;
    }
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let limit =
        std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    match machine.into_iter().chain(limit).min() {
        Some(bytes) => ByteSize(bytes / 100 * SHARE_PERCENT),
        None => FALLBACK,
    }
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24 kB\n"), Some(24 * 1024));
        assert_eq!(total(""), None);
        assert_eq!(budget(Some(ByteSize::mib(7))), ByteSize::mib(7));
    }
}
