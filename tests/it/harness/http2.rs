//! HTTP/2 frame by frame, for clients that mean harm. See RFC 9113.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A connection without any manners.
pub struct Connection {
    pub stream: TcpStream,
}

impl Connection {
    /// Says hello; each of its streams may be sent `window` bytes.
    pub async fn open(address: SocketAddr, window: u32) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(PREFACE).await?;
        let mut connection = Self { stream };
        let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        setting.extend(window.to_be_bytes());
        connection.send(&frame(SETTINGS, 0, 0, &setting)).await?;
        Ok(connection)
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads a frame: its kind and its payload.
    pub async fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, kind, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).await?;
        Ok((kind, payload))
    }

    /// Reads until the server has closed, and tells with which error it said goodbye, if it did.
    pub async fn farewell(&mut self) -> Option<u32> {
        let mut farewell = None;
        while let Ok((kind, payload)) = self.read().await {
            if kind == GOAWAY {
                farewell = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        farewell
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a gRPC call of a method, written without any compression.
pub fn call(stream: u32, method: &str) -> Vec<u8> {
    call_with(stream, method, &[])
}

/// With further headers.
pub fn call_with(stream: u32, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let path = format!("/lattice.control.v1.{method}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "gateway"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let block = fields
        .iter()
        .chain(more)
        .flat_map(|(name, value)| field(name, value));
    frame(HEADERS, END_HEADERS, stream, &block.collect::<Vec<_>>())
}

/// A request of a path of HTTP/JSON.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
    ];
    let block = fields.iter().flat_map(|(name, value)| field(name, value));
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &block.collect::<Vec<_>>(),
    )
}

/// A header that the table of headers is not to keep.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        // Longer ones have a length of several bytes.
        assert!(text.len() < 127);
        field.push(u8::try_from(text.len()).unwrap());
        field.extend(text.bytes());
    }
    field
}

/// A message of a call that sends nothing after it.
pub fn message(stream: u32, message: &[u8]) -> Vec<u8> {
    let mut prefixed = vec![0];
    prefixed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    prefixed.extend(message);
    frame(DATA, END_STREAM, stream, &prefixed)
}
