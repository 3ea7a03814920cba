use super::*;

fn disk(folder: &Path) -> Disk {
    Disk::open(folder, None, 4096).unwrap()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

fn put(disk: &Disk, data: &[u8]) -> BlockId {
    let block = BlockId::generate();
    let mut writer = disk.create(block).unwrap();
    data.chunks(1000).for_each(|piece| writer.write(piece).unwrap());
    assert_eq!(writer.finish().unwrap(), data.len() as u64);
    block
}

#[test]
fn every_range_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let data = bytes(20_000);
    let block = put(&disk, &data);
    for start in (0..20_000).step_by(777) {
        for length in [0, 1, 4095, 4096, 4097, 12_000] {
            let end = (start + length).min(data.len());
            assert_eq!(disk.read(block, start as u64..end as u64).unwrap(), data[start..end]);
        }
    }
    assert_eq!(disk.read(block, 19_999..20_001).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(disk.read(BlockId::generate(), 0..1).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn only_the_chunks_that_are_touched_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let data = bytes(20_000);
    let block = put(&disk, &data);
    let mut damaged = data.clone();
    damaged[9000] ^= 4;
    std::fs::write(disk.block_path(block), &damaged).unwrap();

    assert_eq!(disk.read(block, 0..8192).unwrap(), data[..8192]);
    assert_eq!(disk.read(block, 12_288..20_000).unwrap(), data[12_288..]);
    assert_eq!(disk.read(block, 8192..8193).unwrap_err().kind(), Kind::Corrupt);
    std::fs::write(disk.block_path(block), &data[..5000]).unwrap();
    assert_eq!(disk.read(block, 0..1).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(disk.inventory().unwrap().bad, [block]);
}

#[test]
fn a_restart_finds_whole_blocks_and_clears_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let first = disk(folder.path());
    let node = first.node().clone();
    let mut blocks = vec![put(&first, &bytes(10)), put(&first, &bytes(5000))];
    blocks.sort();
    std::fs::write(folder.path().join("tmp").join("left-over.0"), b"lost").unwrap();
    let half = put(&first, &bytes(7));
    std::fs::remove_file(first.block_path(half)).unwrap();
    let bare = put(&first, &bytes(7));
    std::fs::remove_file(first.sidecar_path(bare)).unwrap();
    drop(first);

    let again = disk(folder.path());
    assert_eq!(*again.node(), node);
    let inventory = again.inventory().unwrap();
    assert_eq!(inventory.blocks.iter().map(|b| b.id).collect::<Vec<_>>(), blocks);
    assert_eq!(inventory.bad, [bare]);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    assert!(!again.sidecar_path(half).try_exists().unwrap());
}

#[test]
fn a_folder_serves_one_process_one_node_and_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let first = Disk::open(folder.path(), Some(NodeId::new("w1").unwrap()), 4096).unwrap();
    assert_eq!(Disk::open(folder.path(), None, 4096).unwrap_err().kind(), Kind::Unavailable);
    first.join_store("one").unwrap();
    first.join_store("one").unwrap();
    assert_eq!(first.join_store("two").unwrap_err().kind(), Kind::Invalid);
    drop(first);
    let other = Disk::open(folder.path(), Some(NodeId::new("w2").unwrap()), 4096);
    assert_eq!(other.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(disk(folder.path()).store().as_deref(), Some("one"));
    std::fs::write(folder.path().join("node.json"), "{}").unwrap();
    assert_eq!(Disk::open(folder.path(), None, 4096).unwrap_err().kind(), Kind::Corrupt);
    std::fs::write(folder.path().join("node.json"), r#"{"version":9,"node":"w1"}"#).unwrap();
    assert_eq!(Disk::open(folder.path(), None, 4096).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn a_deleted_block_is_gone_and_an_open_one_still_reads() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let block = put(&disk, &bytes(100));
    let open = disk.open_for_read(block).unwrap();
    disk.delete(block).unwrap();
    disk.delete(block).unwrap();
    assert_eq!(disk.read(block, 0..1).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(open.read(10..20).unwrap(), bytes(100)[10..20]);
    assert!(disk.free().unwrap() > 0);
}
