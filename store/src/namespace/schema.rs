//! The tables of the block namespace.
//!
//! ```text
//! skep_write --places--> skep_block <--names-- skep_file_block --of--> skep_file
//!  (in progress)             |                                          (visible)
//!                       skep_replica: 'placed' -> 'good' -> 'corrupt' | 'missing'
//!                            |
//!                       skep_garbage (no longer needed on that node)
//! ```
//!
//! - A file exists if it is in `skep_file`. What is being written is in `skep_write` and in blocks whose `write` is
//!   set; nothing there can be seen.
//! - A block without a file and without a write does not exist: its replicas are in `skep_garbage`, until a report of
//!   the node no longer names them.
//! - What is in `skep_garbage` may be of a block that has other replicas. If it is not `bad`, it is worth having while those are
//!   too few and nobody asked the node to delete it: `asked` is 0, then 2 while it is asked, then 1 when it answered.
//! - A node that is being emptied has `draining_us`, one that may be away `maintenance_us`, the end of that.
//! - `skep_life` are the times in which this database knew every block that was made: what a node holds from such a time and
//!   the namespace does not know is over (see `orphans`).
//! - Ids are hexadecimal text, times are microseconds since 1970.

/// Migrations of component `blocks`, in order. Never edit one that was released; append.
pub(super) const STEPS: &[&str] = &[
    "
CREATE TABLE skep_store (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE skep_node (id TEXT PRIMARY KEY NOT NULL, reported_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE skep_file (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  path TEXT NOT NULL UNIQUE,
  size INTEGER NOT NULL,
  version TEXT NOT NULL,
  created_us INTEGER NOT NULL
);
CREATE TABLE skep_write (
  id TEXT PRIMARY KEY NOT NULL,
  path TEXT NOT NULL,
  mode TEXT NOT NULL,
  touched_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE skep_block (id TEXT PRIMARY KEY NOT NULL, length INTEGER, write TEXT) WITHOUT ROWID;
CREATE INDEX skep_block_write ON skep_block (write) WHERE write IS NOT NULL;
CREATE TABLE skep_file_block (
  file INTEGER NOT NULL,
  position INTEGER NOT NULL,
  block TEXT NOT NULL,
  PRIMARY KEY (file, position)
) WITHOUT ROWID;
CREATE INDEX skep_file_block_block ON skep_file_block (block);
CREATE TABLE skep_replica (
  block TEXT NOT NULL,
  node TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('placed', 'good', 'corrupt', 'missing')),
  PRIMARY KEY (block, node)
) WITHOUT ROWID;
CREATE INDEX skep_replica_node ON skep_replica (node);
CREATE TABLE skep_garbage (
  node TEXT NOT NULL,
  block TEXT NOT NULL,
  since_us INTEGER NOT NULL,
  asked INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (node, block)
) WITHOUT ROWID;
",
    "
ALTER TABLE skep_node ADD COLUMN draining_us INTEGER;
ALTER TABLE skep_node ADD COLUMN maintenance_us INTEGER;
ALTER TABLE skep_node ADD COLUMN zone TEXT;
ALTER TABLE skep_garbage ADD COLUMN bad INTEGER NOT NULL DEFAULT 0;
CREATE TABLE skep_life (start_us INTEGER PRIMARY KEY NOT NULL, end_us INTEGER NOT NULL) WITHOUT ROWID;
",
];
