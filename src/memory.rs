//! How much memory queries may use.

use skep_common::ByteSize;

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
