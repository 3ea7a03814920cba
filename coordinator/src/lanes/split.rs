//! Deals the files of a scan to the tasks that read it.
//!
//! Pure arithmetic over pieces: who holds them, how many bytes they have. Whole files first, to a holder where there is
//! one and it has not more than its share already; files are cut into byte ranges only when there are fewer of them
//! than tasks or one is larger than a task's share.

/// Something to read: a file, or a range of bytes of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which file, as the caller counts.
    pub(super) file: usize,
    /// First byte.
    pub(super) start: u64,
    /// The byte after the last.
    pub(super) end: u64,
    /// Tasks whose worker holds the file.
    pub(super) holders: Vec<usize>,
    /// Whether it may be cut.
    pub(super) divisible: bool,
}

impl Piece {
    fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// How much more than its equal share a task may get to keep reads local, in percent.
const SLACK_PERCENT: u64 = 120;

/// The pieces of each of `tasks` tasks. Every byte goes to exactly one of them.
pub(super) fn deal(pieces: Vec<Piece>, tasks: usize) -> Vec<Vec<Piece>> {
    let tasks = tasks.max(1);
    let total: u64 = pieces.iter().map(Piece::bytes).sum();
    let share = total.div_ceil(tasks as u64).max(1);
    let mut pieces = cut(pieces, tasks, share);
    // The largest first, so that the small ones even out; ties in a fixed order, so that plans repeat.
    pieces.sort_by_key(|piece| (std::cmp::Reverse(piece.bytes()), piece.file, piece.start));
    let mut dealt: Vec<Vec<Piece>> = vec![Vec::new(); tasks];
    let mut load = vec![0u64; tasks];
    let limit = share.saturating_mul(SLACK_PERCENT) / 100;
    for piece in pieces {
        let lightest = |among: &mut dyn Iterator<Item = usize>| among.min_by_key(|&task| (load[task], task));
        let local = lightest(&mut piece.holders.iter().copied().filter(|&task| task < tasks))
            .filter(|&task| load[task] + piece.bytes() <= limit.max(piece.bytes()));
        let Some(task) = local.or_else(|| lightest(&mut (0..tasks))) else { continue };
        load[task] += piece.bytes();
        dealt[task].push(piece);
    }
    for pieces in &mut dealt {
        pieces.sort_by_key(|piece| (piece.file, piece.start));
    }
    dealt
}

/// Cuts what is too large for an even deal.
fn cut(pieces: Vec<Piece>, tasks: usize, share: u64) -> Vec<Piece> {
    let few = pieces.len() < tasks;
    let mut cut = Vec::with_capacity(pieces.len().max(tasks));
    for piece in pieces {
        let parts = match piece.bytes() {
            _ if !piece.divisible => 1,
            bytes if few => bytes.div_ceil(share).max(1),
            bytes if bytes > share.saturating_mul(SLACK_PERCENT) / 100 => bytes.div_ceil(share),
            _ => 1,
        };
        let step = piece.bytes().div_ceil(parts).max(1);
        let mut start = piece.start;
        while start < piece.end || start == piece.start {
            let end = (start + step).min(piece.end);
            cut.push(Piece { start, end, ..piece.clone() });
            if end >= piece.end {
                break;
            }
            start = end;
        }
    }
    cut
}

/// The partitions of one task: its pieces, evenly by bytes, into `partitions` groups, some of which may be empty.
pub(super) fn groups(pieces: Vec<Piece>, partitions: usize) -> Vec<Vec<Piece>> {
    let pieces = pieces.into_iter().map(|piece| Piece { holders: Vec::new(), ..piece }).collect();
    deal(pieces, partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(file: usize, bytes: u64, holders: &[usize]) -> Piece {
        Piece { file, start: 0, end: bytes, holders: holders.to_vec(), divisible: true }
    }

    fn load(pieces: &[Piece]) -> u64 {
        pieces.iter().map(Piece::bytes).sum()
    }

    /// Every byte of every file goes to exactly one task.
    fn covers(dealt: &[Vec<Piece>], files: &[u64]) {
        for (file, bytes) in files.iter().enumerate() {
            let mut ranges: Vec<_> =
                dealt.iter().flatten().filter(|p| p.file == file).map(|p| (p.start, p.end)).collect();
            ranges.sort_unstable();
            let mut at = 0;
            for (start, end) in ranges {
                assert_eq!(start, at, "file {file}");
                at = end;
            }
            assert_eq!(at, *bytes, "file {file}");
        }
    }

    #[test]
    fn whole_files_go_to_a_holder() {
        let files = [100, 100, 100, 100, 100, 100];
        let holders: [&[usize]; 6] = [&[2], &[2, 0], &[0], &[1], &[0, 1], &[2]];
        let pieces = files.iter().enumerate().map(|(i, &b)| piece(i, b, holders[i])).collect();
        let dealt = deal(pieces, 3);
        covers(&dealt, &files);
        assert_eq!(dealt.iter().map(|d| load(d)).collect::<Vec<_>>(), [200, 200, 200]);
        for (task, pieces) in dealt.iter().enumerate() {
            assert!(pieces.iter().all(|p| p.holders.contains(&task)), "{dealt:?}");
        }
    }

    #[test]
    fn one_holder_does_not_get_everything() {
        let files = [50; 9];
        let pieces = files.iter().enumerate().map(|(i, &b)| piece(i, b, &[1])).collect();
        let dealt = deal(pieces, 3);
        covers(&dealt, &files);
        assert!(dealt.iter().all(|d| load(d) >= 100), "{dealt:?}");
    }

    /// Sizes and holders drawn so that few files have most bytes, and few tasks most replicas.
    #[test]
    fn tasks_stay_even_under_skew_and_read_nearby_what_they_can() {
        use rand::{Rng, SeedableRng};
        for seed in 0..500 {
            let mut random = rand::rngs::StdRng::seed_from_u64(seed);
            let (tasks, count) = (random.random_range(2..12), random.random_range(20..200));
            let skew = random.random_range(0.0..3.0);
            let mut drawn = |below: usize| {
                let point: f64 = random.random_range(0.0..1.0);
                (point.powf(1.0 + skew) * below as f64) as usize
            };
            let files: Vec<u64> = (0..count).map(|_| 1 + drawn(1000) as u64).collect();
            let holders: Vec<Vec<usize>> =
                (0..count).map(|_| (0..3).map(|_| drawn(tasks)).collect()).collect();
            let pieces = files.iter().enumerate().map(|(i, &b)| piece(i, b, &holders[i])).collect();
            let dealt = deal(pieces, tasks);
            covers(&dealt, &files);
            let share = files.iter().sum::<u64>().div_ceil(tasks as u64);
            let largest = dealt.iter().map(|d| load(d)).max().unwrap_or_default();
            assert!(largest <= share * 3 / 2, "seed {seed}: {largest} where {share} is even");
            let near = |(task, pieces): (usize, &Vec<Piece>)| -> u64 {
                pieces.iter().filter(|p| p.holders.contains(&task)).map(Piece::bytes).sum()
            };
            let near: u64 = dealt.iter().enumerate().map(near).sum();
            // What the holders of a replica could read at most, each no more than its share and the slack.
            let held = |task: usize| -> u64 {
                let files = files.iter().zip(&holders).filter(|(_, holders)| holders.contains(&task));
                files.map(|(bytes, _)| bytes).sum()
            };
            let most: u64 = (0..tasks).map(|task| held(task).min(share)).sum();
            assert!(near * 10 >= most * 6, "seed {seed}: {near} of {most} bytes are near");
        }
    }

    #[test]
    fn few_or_large_files_are_cut() {
        for (files, tasks) in
            [(vec![1000], 3), (vec![10, 5000], 4), (vec![7], 3), (vec![1], 3), (vec![900, 1, 1, 1], 2)]
        {
            let pieces = files.iter().enumerate().map(|(i, &b)| piece(i, b, &[])).collect();
            let dealt = deal(pieces, tasks);
            covers(&dealt, &files);
            let largest = dealt.iter().map(|d| load(d)).max().unwrap_or_default();
            let share = files.iter().sum::<u64>().div_ceil(tasks as u64);
            assert!(largest <= share * 3 / 2 + 1, "{files:?} {tasks}: {dealt:?}");
        }
    }

    #[test]
    fn what_cannot_be_cut_stays_whole() {
        let pieces = vec![Piece { divisible: false, ..piece(0, 1000, &[]) }, piece(1, 0, &[])];
        let dealt = deal(pieces, 3);
        assert_eq!(dealt.iter().flatten().filter(|p| p.file == 0).count(), 1);
        assert_eq!(dealt.iter().flatten().filter(|p| p.file == 1).count(), 1, "an empty file is still read");
    }
}
