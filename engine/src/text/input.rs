//! The bytes of a file, or of the whole lines of a part of it, unpacked.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore};

use super::Compression;

/// Bytes read from a local file at once.
const CHUNK_BYTES: usize = 1 << 20;

/// All bytes of the file, unpacked.
pub(super) async fn whole(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    compression: Compression,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let bytes = raw(store, path, None).await?;
    compression.decoder().convert_stream(bytes)
}

/// The lines of the file that begin in `[start, end)`.
pub(super) async fn lines(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    start: u64,
    end: u64,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    if start >= end {
        return Ok(stream::empty().boxed());
    }
    // The line that begins at `start` is ours only if the byte before it ends another one.
    let from = start.saturating_sub(1);
    let bytes = raw(store, path, Some(from)).await?;
    let state = LineState { bytes, at: from, end, skipping: start > 0, done: false };
    Ok(stream::try_unfold(state, LineState::next).boxed())
}

struct LineState {
    bytes: BoxStream<'static, Result<Bytes>>,
    /// The offset in the file of the next chunk.
    at: u64,
    /// Lines that begin here or later are not ours.
    end: u64,
    /// Whether the end of a line that is not ours has still to come.
    skipping: bool,
    done: bool,
}

impl LineState {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        while !self.done {
            let Some(mut chunk) = self.bytes.try_next().await? else { return Ok(None) };
            let mut offset = self.at;
            self.at += chunk.len() as u64;
            if self.skipping {
                let Some(newline) = chunk.iter().position(|&b| b == b'\n') else { continue };
                chunk = chunk.split_off(newline + 1);
                offset += newline as u64 + 1;
                self.skipping = false;
                if offset >= self.end {
                    self.done = true;
                    continue;
                }
            }
            // The last line of ours ends with the first newline at or behind the byte `end - 1`.
            let last = usize::try_from((self.end - 1).saturating_sub(offset)).unwrap_or(usize::MAX);
            if last < chunk.len()
                && let Some(newline) = chunk[last..].iter().position(|&b| b == b'\n')
            {
                chunk.truncate(last + newline + 1);
                self.done = true;
            }
            if !chunk.is_empty() {
                return Ok(Some((chunk, self)));
            }
        }
        Ok(None)
    }
}

/// The first `limit` bytes of the file, unpacked, cut after a line end unless they are all; and whether they are all.
pub(crate) async fn sample(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    compression: Compression,
    limit: usize,
) -> Result<(Vec<u8>, bool)> {
    let mut input = whole(store, path, compression).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = input.try_next().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() >= limit {
            let cut = bytes[..limit].iter().rposition(|&b| b == b'\n').map(|at| at + 1);
            // A line longer than the limit is taken as far as it was read.
            bytes.truncate(cut.unwrap_or(bytes.len()));
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}

/// The bytes as they are stored, from `from` on.
async fn raw(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    from: Option<u64>,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let options = GetOptions { range: from.map(GetRange::Offset), ..Default::default() };
    let got = store.get_opts(path, options).await?;
    let (start, end) = (got.range.start, got.range.end);
    Ok(match got.payload {
        GetResultPayload::File(file, _) => local(file, start, end),
        GetResultPayload::Stream(stream) => stream.map_err(DataFusionError::from).boxed(),
    })
}

/// Reads a local file in large pieces; the store's own stream takes small ones.
fn local(mut file: std::fs::File, start: u64, end: u64) -> BoxStream<'static, Result<Bytes>> {
    let first = file.seek(SeekFrom::Start(start)).map(|_| file);
    stream::try_unfold((Some(first), end.saturating_sub(start)), |(file, left)| async move {
        let Some(file) = file else { return Ok(None) };
        let mut file = file?;
        if left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; wanted];
            let count = file.read(&mut buffer)?;
            buffer.truncate(count);
            Ok::<_, std::io::Error>((Bytes::from(buffer), file))
        });
        let (bytes, file) = read.await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))??;
        if bytes.is_empty() {
            return Ok(None);
        }
        let left = left - bytes.len() as u64;
        Ok(Some((bytes, (Some(Ok(file)), left))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload};

    use super::*;

    /// However a file is cut, every line is read once and whole.
    #[tokio::test]
    async fn parts_share_the_lines_between_them() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from("a");
        for text in ["one\ntwo\n\nlonger line\nlast", "x\n", "", "\n\n", "no end"] {
            store.put(&path, PutPayload::from(text.as_bytes().to_vec())).await.unwrap();
            let size = text.len() as u64;
            for cut in 0..=size {
                let mut seen = String::new();
                for (start, end) in [(0, cut), (cut, size)] {
                    let bytes: Vec<Bytes> =
                        lines(&store, &path, start, end).await.unwrap().try_collect().await.unwrap();
                    let part: String =
                        bytes.iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect();
                    assert!(
                        part.is_empty()
                            || end == size
                            || part.ends_with('\n')
                            || seen.len() + part.len() == text.len()
                    );
                    seen.push_str(&part);
                }
                assert_eq!(seen, text, "cut at {cut}");
            }
        }
    }
}
