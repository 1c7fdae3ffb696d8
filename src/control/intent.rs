//! Ids that name intents, never contents.
//!
//! JetStream compares message ids over the whole stream and never looks at the payload, so an id binds caller,
//! lattice, method, entry and request id: one tenant cannot silence another's write, one id used on two entries is
//! two intents, and putting A, B and A again within the window ends at A. What was asked is a *fingerprint* of its
//! own, by which a request id that comes again with other content is recognised.

use data_encoding::BASE64URL_NOPAD;

use crate::{
    auth::Caller,
    domain::{
        EntryKey, LatticeName, RequestId,
        hash::{LengthPrefixed, first_8},
    },
    store::evidence::{NO_ENTRY, Stamp},
};

/// What a mutation is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The value of `Nats-Msg-Id`: fixed length, no byte of it chosen by a client.
    pub message_id: String,
    /// How evidence names it.
    pub stamp: Stamp,
    /// The client's request id, or the one made for it.
    pub request_id: String,
}

/// What a caller asks to be recognised by.
#[derive(Clone, Copy, Debug)]
pub struct IntentParts<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// Where.
    pub lattice: &'a LatticeName,
    /// The RPC's name.
    pub method: &'static str,
    /// On which entry.
    pub key: &'a EntryKey,
    /// Under which name; none has one made, which covers this call's own retries only.
    pub request_id: Option<&'a RequestId>,
    /// The hash of what is asked.
    pub fingerprint: [u8; 8],
}

impl Intent {
    /// Derives the id: `lg1-` and the first 22 characters of base64url(SHA-256(parts, each behind its length)).
    pub fn of(parts: IntentParts<'_>) -> Self {
        let request_id = match parts.request_id {
            Some(id) => id.as_str().to_owned(),
            None => uuid::Uuid::now_v7().to_string(),
        };
        let mut hash = LengthPrefixed::default();
        hash.text(parts.caller.as_str());
        hash.text(parts.lattice.as_str());
        hash.text(parts.method);
        for part in parts.key.parts() {
            hash.text(part);
        }
        hash.text(&request_id);
        let digest = hash.finish();
        let mut message_id = format!("lg1-{}", BASE64URL_NOPAD.encode(&digest));
        message_id.truncate(26);
        Self {
            message_id,
            stamp: Stamp {
                id: first_8(&digest),
                fingerprint: parts.fingerprint,
                generated: parts.request_id.is_none(),
                entry: match parts.key {
                    EntryKey::InterfaceLink(id) => id.short_hash(),
                    EntryKey::Claims(_)
                    | EntryKey::LinkDefinition(_)
                    | EntryKey::OciReference(_)
                    | EntryKey::Config(_)
                    | EntryKey::Component(_) => NO_ENTRY,
                },
            },
            request_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::LinkId;

    fn intent(method: &'static str, contract: &str, name: &str, request_id: &str) -> Intent {
        Intent::of(IntentParts {
            caller: &Caller::anonymous(),
            lattice: &LatticeName::parse("default").unwrap(),
            method,
            key: &EntryKey::LinkDefinition(LinkId::new("M", contract, name)),
            request_id: Some(&RequestId::parse(request_id).unwrap()),
            fingerprint: [0; 8],
        })
    }

    #[test]
    fn the_id_is_golden() {
        let intent = intent(
            "PutLinkDefinition",
            "wasmcloud:keyvalue",
            "default",
            "request-0001",
        );
        assert_eq!(intent.message_id, "lg1-zBS-EOAcCctKQng6AQKuln");
        assert_eq!(intent.message_id.len(), 26);
    }

    #[test]
    fn everything_but_the_content_is_bound() {
        let one = intent("PutLinkDefinition", "a", "bc", "request-0001");
        for other in [
            intent("DeleteLinkDefinition", "a", "bc", "request-0001"),
            intent("PutLinkDefinition", "ab", "c", "request-0001"),
            intent("PutLinkDefinition", "a", "bc", "request-0002"),
        ] {
            assert_ne!(one.message_id, other.message_id);
            assert_ne!(one.stamp.id, other.stamp.id);
        }
    }
}
