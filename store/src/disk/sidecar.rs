//! The checksums of a block, in a file beside it.
//!
//! ```text
//! offset  bytes
//!  0      8      "SKEPSUM1"
//!  8      4      bytes under one checksum (u32)
//! 12      8      bytes of the block (u64)
//! 20      16     block id
//! 36      4 * n  CRC-32C of each chunk in order, n = ceil(length / chunk)
//! 36+4n   4      CRC-32C of everything before
//! ```
//!
//! Integers are little-endian. The version is the last character of the magic.

use skep_common::{Error, Result};

use crate::block::BlockId;

const MAGIC: &[u8; 8] = b"SKEPSUM1";
const HEADER: usize = 36;

/// What a block must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(crate) block: BlockId,
    pub(crate) chunk: u32,
    pub(crate) length: u64,
    pub(crate) sums: Vec<u32>,
}

impl Sidecar {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.sums.len() * 4 + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.chunk.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(self.block.as_bytes());
        for sum in &self.sums {
            out.extend_from_slice(&sum.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads what [`Sidecar::encode`] wrote for `block`.
    ///
    /// # Errors
    /// `Corrupt` for anything else.
    pub(crate) fn decode(block: BlockId, bytes: &[u8]) -> Result<Self> {
        let wrong = |what: &str| Error::corrupt(format!("the checksum file of block {block} {what}"));
        let (Some(body), Some(sum)) =
            (bytes.len().checked_sub(4).map(|n| &bytes[..n]), bytes.last_chunk::<4>())
        else {
            return Err(wrong("is cut short"));
        };
        if body.len() < HEADER || body[..8] != *MAGIC {
            return Err(wrong("is of another version, or no checksum file"));
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(wrong("fails its own checksum"));
        }
        let mut fields = Fields(&body[8..]);
        let chunk = u32::from_le_bytes(fields.take());
        let length = u64::from_le_bytes(fields.take());
        let id = fields.take::<16>();
        if id != *block.as_bytes() {
            return Err(wrong("belongs to another block"));
        }
        let sums: Vec<u32> = fields.0.as_chunks::<4>().0.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        if chunk == 0 || length.div_ceil(u64::from(chunk)) != sums.len() as u64 || fields.0.len() % 4 != 0 {
            return Err(wrong("contradicts itself"));
        }
        Ok(Self { block, chunk, length, sums })
    }

    /// Checks `bytes`, which start at chunk `first` and end at a chunk's end or the block's.
    ///
    /// # Errors
    /// `Corrupt` naming the block and the place.
    pub(crate) fn check(&self, first: usize, bytes: &[u8]) -> Result<()> {
        let sums = self.sums.get(first..).unwrap_or_default();
        for (i, (chunk, sum)) in bytes.chunks(self.chunk as usize).zip(sums).enumerate() {
            if crc32c::crc32c(chunk) != *sum {
                let at = (first + i) as u64 * u64::from(self.chunk);
                return Err(Error::corrupt(format!(
                    "block {} fails its checksum in the {} bytes from {at}",
                    self.block,
                    chunk.len()
                )));
            }
        }
        Ok(())
    }
}

/// Takes fixed parts off the front of bytes known to be long enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.0[..N]);
        self.0 = &self.0[N..];
        field
    }
}

/// Takes checksums while bytes pass.
#[derive(Debug)]
pub(crate) struct Summer {
    chunk: usize,
    filled: usize,
    sum: u32,
    sums: Vec<u32>,
    length: u64,
}

impl Summer {
    pub(crate) fn new(chunk: u32) -> Self {
        Self { chunk: chunk as usize, filled: 0, sum: 0, sums: Vec::new(), length: 0 }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.chunk - self.filled));
            self.sum = crc32c::crc32c_append(self.sum, now);
            self.filled += now.len();
            if self.filled == self.chunk {
                self.close_chunk();
            }
            bytes = later;
        }
    }

    fn close_chunk(&mut self) {
        self.sums.push(self.sum);
        (self.sum, self.filled) = (0, 0);
    }

    pub(crate) fn finish(mut self, block: BlockId) -> Sidecar {
        if self.filled > 0 {
            self.close_chunk();
        }
        Sidecar { block, chunk: self.chunk as u32, length: self.length, sums: self.sums }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_common::Kind;

    fn sidecar(bytes: &[u8], pieces: usize) -> Sidecar {
        let mut summer = Summer::new(8);
        bytes.chunks(pieces).for_each(|piece| summer.update(piece));
        summer.finish(BlockId::generate())
    }

    #[test]
    fn sums_do_not_depend_on_how_bytes_arrive() {
        let bytes: Vec<u8> = (0..83).collect();
        let whole = sidecar(&bytes, 83).sums;
        for pieces in 1..20 {
            assert_eq!(sidecar(&bytes, pieces).sums, whole);
        }
        assert_eq!(whole.len(), 11);
        assert_eq!(whole[1], crc32c::crc32c(&bytes[8..16]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sidecar = sidecar(b"twenty-one bytes long", 5);
        let good = sidecar.encode();
        assert_eq!(Sidecar::decode(sidecar.block, &good).unwrap(), sidecar);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Sidecar::decode(sidecar.block, &bad).unwrap_err().kind(), Kind::Corrupt, "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(Sidecar::decode(sidecar.block, &good[..cut]).is_err());
        }
        assert!(Sidecar::decode(BlockId::generate(), &good).is_err());
    }

    #[test]
    fn a_bad_chunk_is_named() {
        let bytes: Vec<u8> = (0..40).collect();
        let sidecar = sidecar(&bytes, 40);
        assert!(sidecar.check(0, &bytes).is_ok() && sidecar.check(2, &bytes[16..24]).is_ok());
        let mut bad = bytes.clone();
        bad[17] ^= 1;
        assert!(sidecar.check(0, &bad[..16]).is_ok());
        assert!(sidecar.check(0, &bad).unwrap_err().message().contains("from 16"));
    }
}
