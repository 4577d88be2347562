//! Little-endian fields and length-prefixed byte strings.

use std::time::Duration;

use crate::message::MessageError;

#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn duration(&mut self, value: Duration) -> &mut Self {
        self.u64(value.as_secs()).u32(value.subsec_nanos())
    }

    pub(crate) fn count(&mut self, value: usize) -> &mut Self {
        self.u64(value as u64)
    }

    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.count(value.len()).raw(value)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn raw(
        &mut self,
        field: &'static str,
        length: usize,
    ) -> Result<&'a [u8], MessageError> {
        let (value, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(MessageError::Truncated(field))?;
        self.0 = rest;
        Ok(value)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], MessageError> {
        let (value, rest) = self
            .0
            .split_first_chunk()
            .ok_or(MessageError::Truncated(field))?;
        self.0 = rest;
        Ok(*value)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, MessageError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Result<i32, MessageError> {
        self.array(field).map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, MessageError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(crate) fn duration(&mut self, field: &'static str) -> Result<Duration, MessageError> {
        let seconds = self.u64(field)?;
        match self.u32(field)? {
            nanos @ 0..1_000_000_000 => Ok(Duration::new(seconds, nanos)),
            value => Err(MessageError::Unknown {
                field,
                value: value.into(),
            }),
        }
    }

    /// A number of elements, none of which takes less than eight bytes: a
    /// number that cannot be true never makes the caller allocate or loop.
    pub(crate) fn count(&mut self, field: &'static str) -> Result<u64, MessageError> {
        let count = self.u64(field)?;
        if count > self.0.len() as u64 / 8 {
            return Err(MessageError::Truncated(field));
        }
        Ok(count)
    }

    pub(crate) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], MessageError> {
        let length = usize::try_from(self.u64(field)?).unwrap_or(usize::MAX);
        self.raw(field, length)
    }

    pub(crate) fn end(self) -> Result<(), MessageError> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(MessageError::Trailing(more)),
        }
    }
}
