//! The compact form of a signed token (RFC 7515, section 7.1), read so that no two readers can differ.

use data_encoding::BASE64URL_NOPAD;

/// A token's parts, still encoded.
pub(crate) struct Segments<'a> {
    /// What the signature covers: header and body with the `.` between them.
    pub(crate) signed: &'a str,
    pub(crate) header: &'a str,
    pub(crate) body: &'a str,
    pub(crate) signature: &'a str,
}

impl<'a> Segments<'a> {
    /// Gives none unless there are exactly three parts and none of them is empty.
    pub(crate) fn split(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, body) = signed.split_once('.')?;
        let whole = ![header, body, signature].contains(&"") && !body.contains('.');
        whole.then_some(Self {
            signed,
            header,
            body,
            signature,
        })
    }
}

/// Refuses padding, other alphabets, white space and stray bits after the last byte.
pub(crate) fn decode(segment: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(segment.as_bytes()).ok()
}
