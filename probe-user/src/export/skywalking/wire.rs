//! Protocol buffers, as far as a segment needs them: written into one buffer, without types of their own.

use std::sync::Arc;

use bytes::BufMut as _;
use proto::v3::Commands;
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

use super::convert;
use crate::trace::segment::Segment;

/// The bytes of a message.
#[derive(Debug, Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

/// How a field's value is laid out.
#[derive(Clone, Copy)]
enum Layout {
    Varint = 0,
    Length = 2,
}

impl Message {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// A string. As all fields, it is left out if it is what a reader takes an absent one for.
    pub(super) fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.tag(field, Layout::Length);
            self.varint(text.len() as u64);
            self.bytes.extend_from_slice(text.as_bytes());
        }
    }

    /// An `int32`, `int64`, `bool` or an enum.
    pub(super) fn number(&mut self, field: u32, number: i64) {
        if number != 0 {
            self.tag(field, Layout::Varint);
            // Negative ones take ten bytes on the wire, of whatever type they are.
            self.varint(number.cast_unsigned());
        }
    }

    /// A message within this one. It may be empty: an element of a list is there all the same.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.tag(field, Layout::Length);
        let begin = self.bytes.len();
        write(self);
        // Its length stands before it, in as many bytes as it needs, which is known only now.
        let end = self.bytes.len();
        self.varint((end - begin) as u64);
        let length_bytes = self.bytes.len() - end;
        if let Some(message) = self.bytes.get_mut(begin..) {
            message.rotate_right(length_bytes);
        }
    }

    fn tag(&mut self, field: u32, layout: Layout) {
        self.varint(u64::from(field << 3 | layout as u32));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

/// A segment on its way.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) batch: Arc<Vec<Segment>>,
    pub(super) position: usize,
}

impl Taken {
    pub(super) fn segment(&self) -> Option<&Segment> {
        self.batch.get(self.position)
    }
}

/// Writes segments as they lie, and reads the reply with the generated type.
#[derive(Debug, Default)]
pub(super) struct SegmentCodec;

/// Its buffer serves all segments of a stream.
#[derive(Debug, Default)]
pub(super) struct SegmentEncoder {
    message: Message,
}

impl Codec for SegmentCodec {
    type Encode = Taken;
    type Decode = Commands;
    type Encoder = SegmentEncoder;
    type Decoder = ProstDecoder<Commands>;

    fn encoder(&mut self) -> Self::Encoder {
        SegmentEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl Encoder for SegmentEncoder {
    type Item = Taken;
    type Error = Status;

    fn encode(&mut self, taken: Taken, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.message.clear();
        if let Some(segment) = taken.segment() {
            convert::write(segment, &mut self.message);
        }
        buffer.put_slice(self.message.bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::v3::{KeyStringValuePair, Log, SegmentObject, SpanObject};

    use super::*;

    #[test]
    fn lengths_and_numbers_of_all_sizes_are_those_of_the_generated_types() {
        let mut nested = 0;
        for length in (0..300).chain([16_383, 16_384, 3_000_000]) {
            let text = "x".repeat(length);
            let object = SegmentObject {
                trace_id: text.clone(),
                spans: vec![SpanObject {
                    operation_name: text.clone(),
                    ..SpanObject::default()
                }],
                ..SegmentObject::default()
            };
            let mut message = Message::default();
            message.text(1, &text);
            message.message(3, |span| span.text(6, &text));
            assert_eq!(message.bytes(), object.encode_to_vec(), "{length}");
            nested += object.spans.len();
        }
        assert_eq!(nested, 303);
        for number in [i64::MIN, -1, 0, 1, 127, 128, i64::MAX] {
            let mut message = Message::default();
            message.number(1, number);
            let log = Log {
                time: number,
                data: Vec::new(),
            };
            assert_eq!(message.bytes(), log.encode_to_vec(), "{number}");
        }
        let mut message = Message::default();
        message.number(2, i64::from(-1_i32));
        let span = SpanObject {
            parent_span_id: -1,
            ..SpanObject::default()
        };
        assert_eq!(message.bytes(), span.encode_to_vec());
    }

    #[test]
    fn an_element_that_is_empty_is_there_all_the_same() {
        let mut message = Message::default();
        message.message(2, |_| ());
        let log = Log {
            time: 0,
            data: vec![KeyStringValuePair::default()],
        };
        assert_eq!(message.bytes(), log.encode_to_vec());
    }
}
