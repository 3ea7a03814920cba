//! Files into the partitions of a scan.

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileGroup;

/// At most `partitions` groups of about the same bytes. The same files give the same groups.
pub(crate) fn groups(mut files: Vec<PartitionedFile>, partitions: usize) -> Vec<FileGroup> {
    let count = partitions.min(files.len()).max(1);
    files.sort_by(|a, b| {
        let size = b.object_meta.size.cmp(&a.object_meta.size);
        size.then_with(|| a.object_meta.location.cmp(&b.object_meta.location))
    });
    let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); count];
    for file in files {
        // The largest file first, each to the lightest group.
        if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, group)| (*bytes, group.len())) {
            *bytes += file.object_meta.size.max(1);
            group.push(file);
        }
    }
    groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_weigh_about_the_same() {
        let files = [90, 10, 10, 10, 30, 30].iter().enumerate();
        let files = files.map(|(at, size)| PartitionedFile::new(format!("f{at}"), *size)).collect();
        let mut weights: Vec<u64> = groups(files, 2)
            .into_iter()
            .map(|group| group.into_inner().iter().map(|f| f.object_meta.size).sum())
            .collect();
        weights.sort_unstable();
        assert_eq!(weights, [90, 90]);
        assert_eq!(groups(vec![PartitionedFile::new("a", 1)], 8).len(), 1);
    }
}
