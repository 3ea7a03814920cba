//! What the messages of rows that a client sends may claim.
//!
//! A few bytes can say that they are a million times as many: compressed buffers name their own size, a column of NULLs its own
//! length, views and dictionaries the same value again and again. What is claimed is added up before memory is taken for it.
//!
//! ```text
//! message --check--> decoder --weigh--> rows
//! ```
//!
//! # Not here
//! Whether the bytes are Arrow at all: the decoder says so.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, make_array};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};
use arrow::ipc::{self, MessageHeader};
use arrow_flight::FlightData;
use skep_common::{Error, Result};

/// Rows of one message.
const ROWS_MAX: i64 = 1 << 24;
/// Values of one column of one message, with those inside of its lists.
const VALUES_MAX: i64 = 1 << 27;
/// Bytes that a message may become, for each that it may have.
const GROWTH_MAX: usize = 4;
/// Where a compressed buffer begins with its size.
const SIZE_BYTES: usize = 8;

/// Checks the claims of a message before it is decoded. `bytes_max` is the longest message that is accepted.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for a header that is none,
/// [`Kind::Exhausted`](skep_common::Kind::Exhausted) for claims that are too large.
pub(crate) fn check(data: &FlightData, bytes_max: usize) -> Result<()> {
    if data.data_header.is_empty() {
        return Ok(());
    }
    let wrong = || Error::invalid("the client's messages are not a stream of Arrow batches");
    let message = ipc::root_as_message(&data.data_header).map_err(|e| wrong().source(e.to_string()))?;
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|batch| batch.data()),
        _ => return Ok(()),
    };
    let batch = batch.ok_or_else(wrong)?;
    if !(0..=ROWS_MAX).contains(&batch.length()) {
        return Err(too_many(format!("a message of {} rows", batch.length())));
    }
    for node in batch.nodes().into_iter().flatten() {
        if !(0..=VALUES_MAX).contains(&node.length()) || !(0..=node.length()).contains(&node.null_count()) {
            return Err(too_many(format!("a column of {} values", node.length())));
        }
    }
    let mut becomes = 0usize;
    for buffer in batch.buffers().into_iter().flatten() {
        let range = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
        let bytes = range
            .and_then(|(start, length)| data.data_body.get(start..start.checked_add(length)?))
            .ok_or_else(wrong)?;
        let claimed = match bytes.first_chunk::<SIZE_BYTES>() {
            // A negative one says that the buffer is not compressed.
            Some(size) if batch.compression().is_some() => {
                usize::try_from(i64::from_le_bytes(*size)).unwrap_or(bytes.len())
            }
            _ => bytes.len(),
        };
        becomes = becomes.saturating_add(claimed);
    }
    if becomes > bytes_max.saturating_mul(GROWTH_MAX) {
        return Err(too_many(format!("a message that becomes {becomes} bytes")));
    }
    Ok(())
}

/// Checks that the values of `batch` are not far more than its bytes once each stands for itself.
///
/// # Errors
/// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if they are.
pub(crate) fn weigh(batch: &RecordBatch, bytes_max: usize) -> Result<()> {
    let total = batch.columns().iter().map(plain_bytes).fold(0, usize::saturating_add);
    if total > bytes_max.saturating_mul(GROWTH_MAX) {
        return Err(too_many(format!("a message whose values are {total} bytes")));
    }
    Ok(())
}

fn too_many(what: String) -> Error {
    Error::exhausted(format!("the client sent {what}"))
        .hint("send fewer rows in one message, or raise flight.message_max")
}

/// Bytes of the values of `array` when nothing is shared between them.
fn plain_bytes(array: &ArrayRef) -> usize {
    match array.data_type() {
        DataType::Utf8View => view_bytes::<StringViewType>(array),
        DataType::BinaryView => view_bytes::<BinaryViewType>(array),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            match lengths(dictionary.values()) {
                Some(lengths) => {
                    let keys = dictionary.normalized_keys().into_iter();
                    keys.filter_map(|key| lengths.get(key)).fold(0, |sum, length| sum.saturating_add(*length))
                }
                None => array.len().saturating_mul(widest(dictionary.values())),
            }
        }
        DataType::RunEndEncoded(..) => {
            let data = array.to_data();
            let values = data.child_data().get(1).map(|values| widest(&make_array(values.clone())));
            array.len().saturating_mul(values.unwrap_or(0))
        }
        DataType::ListView(_) => list_view_bytes(array.as_list_view::<i32>().sizes(), array),
        DataType::LargeListView(_) => list_view_bytes(array.as_list_view::<i64>().sizes(), array),
        _ => {
            let data = array.to_data();
            let children = data.child_data().iter().map(|child| plain_bytes(&make_array(child.clone())));
            let own = data.buffers().iter().map(|buffer| buffer.len()).fold(0, usize::saturating_add);
            children.fold(own, usize::saturating_add)
        }
    }
}

fn view_bytes<T: ByteViewType>(array: &ArrayRef) -> usize {
    // The lower half of a view is the length of its value.
    let lengths = array.as_byte_view::<T>().views().iter().map(|view| (*view & 0xffff_ffff) as usize);
    lengths.fold(0, usize::saturating_add)
}

fn list_view_bytes<N: Copy + TryInto<usize>>(sizes: &[N], array: &ArrayRef) -> usize {
    let values = sizes.iter().map(|size| (*size).try_into().unwrap_or(0)).fold(0, usize::saturating_add);
    let data = array.to_data();
    let child = data.child_data().first().map(|child| make_array(child.clone()));
    let (bytes, count) = child.map_or((0, 0), |child| (plain_bytes(&child), child.len()));
    match values > count {
        // Some are shared: which ones is not looked at.
        true => values.saturating_mul(bytes),
        false => bytes,
    }
}

/// Bytes of the largest value of `values`, or more.
fn widest(values: &ArrayRef) -> usize {
    match lengths(values) {
        Some(lengths) => lengths.into_iter().max().unwrap_or(0),
        None => values.data_type().primitive_width().unwrap_or_else(|| plain_bytes(values)),
    }
}

/// Bytes of each value, for texts and binaries.
fn lengths(values: &ArrayRef) -> Option<Vec<usize>> {
    Some(match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().offsets().lengths().collect(),
        DataType::LargeUtf8 => values.as_string::<i64>().offsets().lengths().collect(),
        DataType::Binary => values.as_binary::<i32>().offsets().lengths().collect(),
        DataType::LargeBinary => values.as_binary::<i64>().offsets().lengths().collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, Int32Array, NullArray, StringArray, StringViewArray};
    use arrow::datatypes::{Field, Int32Type, Schema};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
    use skep_common::Kind;

    use super::*;

    fn batch(column: ArrayRef) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("c", column.data_type().clone(), true)]);
        RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap()
    }

    fn message(batch: &RecordBatch, compression: Option<CompressionType>) -> FlightData {
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut tracker = DictionaryTracker::new(false);
        let (_, data) = IpcDataGenerator::default()
            .encode(batch, &mut tracker, &options, &mut Default::default())
            .unwrap();
        data.into()
    }

    const MAX: usize = 1 << 20;

    #[test]
    fn honest_messages_pass() {
        let numbers = batch(Arc::new(Int32Array::from_iter_values(0..1000)));
        for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            check(&message(&numbers, compression), MAX).unwrap();
        }
        weigh(&numbers, MAX).unwrap();
        let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
        weigh(&batch(Arc::new(words)), MAX).unwrap();
    }

    #[test]
    fn a_compressed_buffer_that_claims_to_be_huge_is_refused() {
        let numbers = batch(Arc::new(Int32Array::from_iter_values((0..10_000).map(|i| i % 3))));
        for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
            for claim in [i64::MAX, 1 << 40, (MAX * GROWTH_MAX) as i64 + 1] {
                let mut bomb = message(&numbers, Some(compression));
                let size = 40_000i64.to_le_bytes();
                let at = bomb.data_body.windows(8).position(|bytes| bytes == size).unwrap();
                let mut body = bomb.data_body.to_vec();
                body[at..at + 8].copy_from_slice(&claim.to_le_bytes());
                bomb.data_body = body.into();
                assert_eq!(check(&bomb, MAX).unwrap_err().kind(), Kind::Exhausted, "{claim}");
            }
        }
    }

    #[test]
    fn a_column_of_very_many_nulls_is_refused() {
        let nulls = batch(Arc::new(NullArray::new(1 << 40)));
        assert_eq!(check(&message(&nulls, None), MAX).unwrap_err().kind(), Kind::Exhausted);
    }

    #[test]
    fn one_value_that_is_said_very_often_is_refused() {
        let long = "x".repeat(100_000);
        let mut views = StringViewArray::from(vec![long.as_str()]);
        let view = views.views()[0];
        let all = vec![view; 1_000];
        views = StringViewArray::try_new(all.into(), views.data_buffers().to_vec(), None).unwrap();
        assert_eq!(weigh(&batch(Arc::new(views)), MAX).unwrap_err().kind(), Kind::Exhausted);
        let words = DictionaryArray::<Int32Type>::new(
            Int32Array::from(vec![0; 1_000]),
            Arc::new(StringArray::from(vec![long])),
        );
        assert_eq!(weigh(&batch(Arc::new(words)), MAX).unwrap_err().kind(), Kind::Exhausted);
    }

    #[test]
    fn headers_that_are_none_are_refused() {
        let numbers = message(&batch(Arc::new(Int32Array::from(vec![1]))), None);
        for cut in [1, 7, numbers.data_header.len() / 2] {
            let data = FlightData { data_header: numbers.data_header.slice(..cut), ..numbers.clone() };
            assert_eq!(check(&data, MAX).unwrap_err().kind(), Kind::Invalid, "{cut}");
        }
        let short = FlightData { data_body: Default::default(), ..numbers };
        assert_eq!(check(&short, MAX).unwrap_err().kind(), Kind::Invalid);
    }
}
