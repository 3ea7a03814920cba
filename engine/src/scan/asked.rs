//! Asks files for the names of their columns, where the catalog does not know them.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::metadata::ParquetMetaDataReader;
use skep_catalog::{DataFile, TableDef};
use skep_common::{Error, Result};

use crate::environment::Environment;
use crate::table::root_of;
use crate::{error, files};

/// Bytes at the end of a Parquet file: the length of its footer, and a mark.
const TAIL: u64 = 8;
/// Footers read at once.
const AT_ONCE: usize = 16;

/// Reads the names of columns in those of `files` of which the catalog does not tell, once for each: files that another
/// engine rewrote after columns of the table changed.
///
/// # Errors
/// Those of the store; [`Kind::Corrupt`](skep_common::Kind::Corrupt) for what is no Parquet file.
pub(crate) async fn ask(environment: &Environment, def: &TableDef, files: &[Arc<DataFile>]) -> Result<()> {
    let unknown: Vec<Arc<DataFile>> = files.iter().filter(|file| def.asks_file(file)).cloned().collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let (url, root) = root_of(environment, def)?;
    let store = environment.runtime.object_store(&url).map_err(error::from_datafusion)?;
    let mut asked = Vec::with_capacity(unknown.len());
    for file in unknown {
        let place = files::below(&url, &root, file.absolute, &file.path)?;
        asked.push(learn(Arc::clone(&store), place, file));
    }
    stream::iter(asked).buffer_unordered(AT_ONCE).try_collect().await
}

async fn learn(store: Arc<dyn ObjectStore>, place: Path, file: Arc<DataFile>) -> Result<()> {
    let names = names(&store, &place, file.bytes).await;
    let names =
        names.map_err(|e| e.context(format!("the columns of file '{}' cannot be read", file.path)))?;
    // Another query may have asked at the same time, and heard the same.
    let _ = file.names.set(names);
    Ok(())
}

/// The names of the columns of the file at `path` by field id.
async fn names(store: &Arc<dyn ObjectStore>, path: &Path, bytes: u64) -> Result<HashMap<i64, String>> {
    let short = || Error::corrupt(format!("it has {bytes} bytes, fewer than a Parquet file"));
    let end = bytes.checked_sub(TAIL).ok_or_else(short)?;
    let tail = store.get_range(path, end..bytes).await.map_err(|e| error::from_dyn(&e))?;
    let length = tail.first_chunk::<4>().map(|length| u64::from(u32::from_le_bytes(*length)));
    let start = length.and_then(|length| end.checked_sub(length)).ok_or_else(short)?;
    let footer = store.get_range(path, start..end).await.map_err(|e| error::from_dyn(&e))?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).map_err(|e| error::from_dyn(&e))?;
    let fields = metadata.file_metadata().schema_descr().root_schema().get_fields().to_vec();
    let known = fields.iter().filter(|field| field.get_basic_info().has_id());
    Ok(known.map(|field| (i64::from(field.get_basic_info().id()), field.name().to_owned())).collect())
}
