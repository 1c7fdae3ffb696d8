//! How messages are written and read on a gRPC call: by prost, with buffers that begin small.
//!
//! Tonic's own codec reserves 8 KiB each way before a call has said anything. Most messages here are a few hundred bytes, and
//! a caller that never ends one holds its buffer until the deadline; a larger message has its buffer grown as it comes.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// A smaller buffer would not remember its size, and each message of a stream would have one of its own made.
const BEGIN_BYTES: usize = 1024;
/// As tonic's own: what is ready of a stream is sent in such parts.
const YIELD_BYTES: usize = 32 * 1024;

/// Writes `T` and reads `U`; the generated clients and servers make one for each call.
#[derive(Debug)]
pub(crate) struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BEGIN_BYTES, YIELD_BYTES)
}
