//! zstd, as the compressed streams and batches of REv2 carry it.
//!
//! What comes in is not believed: output ends at the size that the digest says,
//! input at about twice that, and no frame may ask for more memory than a window of
//! 8 MiB, which is what RFC 8878 (3.1.1.1.2) asks decoders to have. Output is made
//! piece by piece; a few bytes that stand for gigabytes are never held unpacked.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::Digest;
use zstd::stream::raw::{DParameter, Decoder, Encoder, InBuffer, Operation as _, OutBuffer};

use crate::error::Error;
use crate::store::ByteStream;

/// The quickest of zstd's usual levels: networks are faster than the others.
const LEVEL: i32 = 1;

/// The binary logarithm of the largest window.
const WINDOW: u32 = 23;

/// How much is unpacked at a time.
const PIECE: usize = 1 << 20;

/// Work on pieces up to this size is done where the caller runs.
const IN_PLACE: usize = 64 << 10;

/// How much may come beyond twice what it stands for: frames' headers.
const FRAMING: u64 = 64 << 10;

/// Bytes too few to be worth it.
const TINY: usize = 128;

fn invalid(digest: Digest) -> impl Fn(std::io::Error) -> Error {
    move |reason| Error::Compressed {
        digest,
        reason: reason.to_string(),
    }
}

/// What makes the failure of a library that runs out of memory, and of nothing else.
fn broken(reason: std::io::Error) -> Error {
    Error::Source(tonic::Status::internal(format!("zstd: {reason}")))
}

/// Packs a blob that is held whole; none when it would not shrink.
pub(crate) fn pack(bytes: &[u8]) -> Option<Bytes> {
    if bytes.len() < TINY {
        return None;
    }
    let packed = zstd::bulk::compress(bytes, LEVEL).ok()?;
    (packed.len() < bytes.len()).then(|| packed.into())
}

/// Unpacks a blob that is small enough to be held whole, of exactly the digest's
/// size. Its hash is not looked at.
///
/// # Errors
/// [`Error::Compressed`], and [`Error::Size`] where there is less than the digest
/// says; that there is more is found when the first byte too many is.
pub(crate) fn unpack(digest: Digest, packed: &[u8]) -> Result<Bytes, Error> {
    let size = usize::try_from(digest.size()).unwrap_or(usize::MAX);
    let bytes = zstd::bulk::decompress(packed, size).map_err(invalid(digest))?;
    if bytes.len() != size {
        return Err(Error::Size {
            digest,
            actual: bytes.len() as u64,
        });
    }
    Ok(bytes.into())
}

/// Runs a step of work: elsewhere, if it is long.
async fn run<S: Send + 'static, T: Send + 'static>(
    long: bool,
    mut state: S,
    step: impl FnOnce(&mut S) -> Result<T, Error> + Send + 'static,
) -> Result<(S, T), Error> {
    if !long {
        let made = step(&mut state)?;
        return Ok((state, made));
    }
    crate::blocking::blocking(move || step(&mut state).map(|made| (state, made))).await?
}

struct Packing {
    encoder: Encoder<'static>,
    digest: Digest,
    /// Bytes still to come.
    left: u64,
    rest: Option<ByteStream>,
}

impl Packing {
    /// Counts a piece, or the end.
    fn count(&mut self, piece: Option<&Bytes>) -> Result<(), Error> {
        let length = piece.map_or(0, |piece| piece.len() as u64);
        let wrong = match piece {
            Some(_) => length > self.left,
            None => self.left > 0,
        };
        if wrong {
            return Err(Error::Size {
                digest: self.digest,
                actual: (self.digest.size() - self.left).saturating_add(length),
            });
        }
        self.left -= length;
        Ok(())
    }
}

/// Drives the encoder until it has given all it can: `next` says whether there is
/// more.
fn drive(
    mut next: impl FnMut(&mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<bool>,
) -> Result<Bytes, Error> {
    let mut out = Vec::with_capacity(IN_PLACE);
    loop {
        out.reserve(IN_PLACE);
        let written = out.len();
        let mut output = OutBuffer::around_pos(&mut out, written);
        if !next(&mut output).map_err(broken)? {
            return Ok(out.into());
        }
    }
}

fn pack_piece(encoder: &mut Encoder<'static>, piece: &[u8]) -> Result<Bytes, Error> {
    let mut input = InBuffer::around(piece);
    drive(|output| {
        encoder.run(&mut input, output)?;
        Ok(input.pos() < piece.len())
    })
}

fn pack_end(encoder: &mut Encoder<'static>) -> Result<Bytes, Error> {
    drive(|output| Ok(encoder.finish(output, true)? > 0))
}

/// Packs the last `length` bytes of a blob as they come. More or fewer are an
/// [`Error::Size`]: the header of what is packed says how many there are.
pub(crate) fn packed(digest: Digest, length: u64, bytes: ByteStream) -> ByteStream {
    let start = || -> std::io::Result<Encoder<'static>> {
        let mut encoder = Encoder::new(LEVEL)?;
        // So that small blobs do not take a large window.
        encoder.set_pledged_src_size(Some(length))?;
        Ok(encoder)
    };
    let encoder = match start() {
        Ok(encoder) => encoder,
        Err(error) => return futures::stream::once(async { Err(broken(error)) }).boxed(),
    };
    let packing = Packing {
        encoder,
        digest,
        left: length,
        rest: Some(bytes),
    };
    futures::stream::try_unfold(packing, |mut packing| async move {
        while let Some(mut rest) = packing.rest.take() {
            let piece = rest.try_next().await?;
            packing.count(piece.as_ref())?;
            let Some(piece) = piece else {
                let last = pack_end(&mut packing.encoder)?;
                return Ok(Some((last, packing)));
            };
            let long = piece.len() > IN_PLACE;
            let work = run(long, packing, move |packing| {
                pack_piece(&mut packing.encoder, &piece)
            });
            let made;
            (packing, made) = work.await?;
            packing.rest = Some(rest);
            if !made.is_empty() {
                return Ok(Some((made, packing)));
            }
        }
        Ok(None)
    })
    .boxed()
}

/// What is left to unpack.
///
/// *Input at hand* → unpacked piece by piece → *hungry*: the next input is taken →
/// … → *ended* with the source, which must be where a frame ends.
struct Unpacking {
    decoder: Decoder<'static>,
    digest: Digest,
    input: Bytes,
    /// The decoder holds nothing back.
    hungry: bool,
    /// In the middle of a frame.
    within: bool,
    /// Output that may still come.
    left: u64,
    /// Input that may still come.
    allowed: u64,
}

impl Unpacking {
    fn new(digest: Digest, length: u64) -> std::io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW))?;
        Ok(Self {
            decoder,
            digest,
            input: Bytes::new(),
            hungry: true,
            within: false,
            left: length,
            allowed: length.saturating_mul(2).saturating_add(FRAMING),
        })
    }

    fn feed(&mut self, input: Bytes) -> Result<(), Error> {
        let length = input.len() as u64;
        self.allowed = self.allowed.checked_sub(length).ok_or_else(|| {
            invalid(self.digest)(std::io::Error::other(
                "it takes more than twice the room of what it stands for",
            ))
        })?;
        self.input = input;
        Ok(())
    }

    /// The next piece, empty when more input is needed.
    fn step(&mut self) -> Result<Bytes, Error> {
        // Room for one byte too many, so that it is seen.
        let room = usize::try_from(self.left).map_or(PIECE, |left| left.min(PIECE - 1) + 1);
        let mut out = Vec::with_capacity(room);
        let mut input = InBuffer::around(&self.input);
        let mut output = OutBuffer::around(&mut out);
        loop {
            let before = (input.pos(), output.pos());
            let rest = self
                .decoder
                .run(&mut input, &mut output)
                .map_err(invalid(self.digest))?;
            // Where nothing moved nothing is learnt about the frame.
            if (input.pos(), output.pos()) != before {
                self.within = rest > 0;
            }
            self.hungry = output.pos() < output.capacity();
            if !self.hungry || input.pos() == self.input.len() {
                break;
            }
        }
        let taken = input.pos();
        drop(self.input.split_to(taken));
        let made = out.len() as u64;
        if made > self.left {
            return Err(Error::Size {
                digest: self.digest,
                actual: self.digest.size() + (made - self.left),
            });
        }
        self.left -= made;
        Ok(out.into())
    }

    fn end(&self) -> Result<(), Error> {
        if self.within {
            let reason = std::io::Error::other("it ends within a frame");
            return Err(invalid(self.digest)(reason));
        }
        Ok(())
    }
}

/// Unpacks as it comes what stands for `length` bytes of a blob. That there are
/// fewer, or that they are other bytes, is for whoever takes them to see.
pub(crate) fn unpacked(digest: Digest, length: u64, packed: ByteStream) -> ByteStream {
    let unpacking = match Unpacking::new(digest, length) {
        Ok(unpacking) => unpacking,
        Err(error) => return futures::stream::once(async { Err(broken(error)) }).boxed(),
    };
    futures::stream::try_unfold(
        (unpacking, packed),
        |(mut unpacking, mut packed)| async move {
            loop {
                if unpacking.hungry && unpacking.input.is_empty() {
                    match packed.try_next().await? {
                        Some(input) => unpacking.feed(input)?,
                        None => return unpacking.end().map(|()| None),
                    }
                }
                let long = unpacking.left > IN_PLACE as u64;
                let piece;
                (unpacking, piece) = run(long, unpacking, Unpacking::step).await?;
                if !piece.is_empty() {
                    return Ok(Some((piece, (unpacking, packed))));
                }
            }
        },
    )
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use proptest::prelude::*;
    use proto::DigestFunction;

    fn stream(bytes: &[u8], piece: usize) -> ByteStream {
        let pieces: Vec<_> = bytes
            .chunks(piece.max(1))
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        futures::stream::iter(pieces).boxed()
    }

    async fn gather(stream: ByteStream) -> Result<Vec<u8>, Error> {
        let pieces: Vec<Bytes> = stream.try_collect().await?;
        Ok(pieces.concat())
    }

    fn sha256(bytes: &[u8]) -> Digest {
        Digest::of(DigestFunction::Sha256, bytes)
    }

    fn sized(size: u64) -> Digest {
        Digest::new(DigestFunction::Sha256, &"0".repeat(64), size).unwrap()
    }

    #[tokio::test]
    async fn large_blobs_pass_in_pieces() {
        for size in [5_000_000, 1 << 20, 2 << 20, 100_000] {
            large(size).await;
        }
    }

    async fn large(size: u32) {
        let bytes: Vec<u8> = (0..size).map(|n| (n / 7 * 31) as u8).collect();
        let digest = sha256(&bytes);
        let made = gather(packed(digest, digest.size(), stream(&bytes, 300_000))).await;
        let made = made.unwrap();
        assert!(made.len() < bytes.len() / 2);
        for piece in [1000, 1 << 20] {
            let back = unpacked(digest, digest.size(), stream(&made, piece));
            assert!(gather(back).await.unwrap() == bytes);
        }
    }

    #[tokio::test]
    async fn what_is_packed_is_of_the_size_that_was_said() {
        let bytes = [7; 1000];
        for size in [999, 1001] {
            let packed = gather(packed(sized(size), size, stream(&bytes, 100))).await;
            assert!(matches!(packed, Err(Error::Size { .. })), "{size}");
        }
    }

    #[tokio::test]
    async fn what_unpacks_to_more_than_the_digest_says_is_stopped_there() {
        // A gibibyte of zeros in some 100 kilobytes.
        let zeros = futures::stream::iter((0..1024).map(|_| Ok(Bytes::from(vec![0; PIECE]))));
        let bomb = gather(packed(sized(1 << 30), 1 << 30, zeros.boxed()))
            .await
            .unwrap();
        assert!(bomb.len() < 200_000);
        let digest = sized(100_000);
        let mut out = unpacked(digest, digest.size(), stream(&bomb, PIECE));
        let mut seen = 0;
        let error = loop {
            match out.try_next().await {
                Ok(piece) => seen += piece.unwrap().len(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Size { .. }), "{error}");
        assert!(seen <= 100_000);
        let error = unpack(digest, &bomb).unwrap_err();
        assert!(matches!(error, Error::Compressed { .. }), "{error}");
    }

    #[tokio::test]
    async fn frames_without_content_do_not_go_on_for_ever() {
        // Skippable frames of nothing (RFC 8878, 3.1.2).
        let nothing = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].repeat(1000);
        let endless = futures::stream::repeat_with(move || Ok(Bytes::from(nothing.clone())));
        let error = gather(unpacked(sized(10), 10, endless.boxed())).await;
        assert!(matches!(error, Err(Error::Compressed { .. })));
    }

    #[tokio::test]
    async fn a_frame_that_wants_too_large_a_window_is_refused() {
        // Magic number, no content size, a window of 2^27 bytes, an empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3, 0x01, 0, 0];
        let error = gather(unpacked(sized(10), 10, stream(&frame, 100))).await;
        assert!(matches!(error, Err(Error::Compressed { .. })));
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (23 - 10) << 3, 0x01, 0, 0];
        let nothing = gather(unpacked(sized(10), 10, stream(&frame, 100))).await;
        assert_eq!(nothing.unwrap(), b"");
    }

    proptest! {
        /// What was packed unpacks to the same, cut wherever it is; cut short it is
        /// an error, and frames may follow one another.
        #[test]
        fn round_trips(
            bytes in prop::collection::vec(0..4u8, 0..5000),
            (into, out) in (1..3000usize, 1..3000usize),
            cut in 0..5000usize,
        ) {
            let digest = sha256(&bytes);
            let size = digest.size();
            let made = block_on(gather(packed(digest, size, stream(&bytes, into)))).unwrap();
            let back = block_on(gather(unpacked(digest, size, stream(&made, out)))).unwrap();
            prop_assert_eq!(&back, &bytes);
            if cut < made.len() && cut > 0 {
                let short = block_on(gather(unpacked(digest, size, stream(&made[..cut], out))));
                prop_assert!(short.is_err());
            }
            let twice = [&made[..], &made].concat();
            let back = gather(unpacked(sized(2 * size), 2 * size, stream(&twice, out)));
            prop_assert_eq!(block_on(back).unwrap(), bytes.repeat(2));
            if let Some(packed) = pack(&bytes) {
                prop_assert!(packed.len() < bytes.len());
                prop_assert_eq!(&unpack(digest, &packed).unwrap()[..], &bytes[..]);
            }
        }

        /// Nothing makes it panic or give more than was asked for.
        #[test]
        fn no_bytes_do_harm(
            mut bytes in prop::collection::vec(any::<u8>(), 0..500),
            size in 0..2000u64,
            frame: bool,
        ) {
            if frame {
                bytes.splice(0..0, [0x28, 0xb5, 0x2f, 0xfd]);
            }
            if let Ok(made) = block_on(gather(unpacked(sized(size), size, stream(&bytes, 77)))) {
                prop_assert!(made.len() as u64 <= size);
            }
            if let Ok(made) = unpack(sized(size), &bytes) {
                prop_assert_eq!(made.len() as u64, size);
            }
        }
    }
}
