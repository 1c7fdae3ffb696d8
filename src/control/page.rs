//! Page tokens: where a list goes on, bound to what it lists. They carry no authority.

use data_encoding::BASE64URL_NOPAD;

use crate::domain::{
    EntryKey, Epoch, InterfaceLinkId, Kind, LatticeName, LinkId,
    hash::{LengthPrefixed, first_8},
};

const VERSION: u8 = 1;

/// Which entries of a kind a list wants, by their identifying parts; an absent part wants all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    kind: Kind,
    parts: Vec<Option<Box<str>>>,
}

impl Filter {
    /// Wants the entries of a kind whose identifying parts are these, where they are not empty.
    pub fn new(kind: Kind, parts: &[&str]) -> Self {
        let parts = parts
            .iter()
            .map(|part| (!part.is_empty()).then(|| (*part).into()))
            .collect();
        Self { kind, parts }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether an entry is wanted.
    pub fn wants(&self, key: &EntryKey) -> bool {
        let parts = key.parts();
        parts
            .iter()
            .skip(1)
            .zip(&self.parts)
            .all(|(part, wanted)| wanted.as_deref().is_none_or(|wanted| wanted == *part))
    }

    /// What a token is bound to.
    fn binding(&self, lattice: &LatticeName, epoch: Epoch) -> [u8; 8] {
        let mut hash = LengthPrefixed::default();
        hash.text(lattice.as_str());
        hash.bytes(&epoch.number().to_be_bytes());
        self.add_to(&mut hash);
        first_8(&hash.finish())
    }

    /// Adds it to a hash.
    pub(super) fn add_to(&self, hash: &mut LengthPrefixed) {
        hash.text(&format!("{:?}", self.kind));
        for part in &self.parts {
            hash.text(part.as_deref().unwrap_or_default());
        }
    }

    /// Writes the token of the page behind `last`.
    pub fn token(&self, lattice: &LatticeName, epoch: Epoch, last: &EntryKey) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.binding(lattice, epoch));
        for part in last.parts().iter().skip(1) {
            bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Reads a token of this list; `None` for any other text.
    pub fn parse(&self, lattice: &LatticeName, epoch: Epoch, token: &str) -> Option<EntryKey> {
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
        let (head, mut rest) = bytes.split_at_checked(9)?;
        let (version, binding) = head.split_first()?;
        if *version != VERSION || binding != self.binding(lattice, epoch) {
            return None;
        }
        let mut part = || {
            let (length, tail) = rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (part, tail) = tail.split_at_checked(length)?;
            rest = tail;
            String::from_utf8(part.to_vec()).ok().map(String::into_boxed_str)
        };
        let key = match self.kind {
            Kind::Claims => EntryKey::Claims(part()?),
            Kind::OciReference => EntryKey::OciReference(part()?),
            Kind::LinkDefinition => EntryKey::LinkDefinition(LinkId {
                actor_id: part()?,
                contract_id: part()?,
                link_name: part()?,
            }),
            Kind::InterfaceLink => EntryKey::InterfaceLink(InterfaceLinkId {
                source_id: part()?,
                name: part()?,
                wit_namespace: part()?,
                wit_package: part()?,
                target: part()?,
            }),
            Kind::Config => EntryKey::Config(part()?),
            Kind::Component => EntryKey::Component(part()?),
        };
        rest.is_empty().then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn links(actor: &str) -> Filter {
        Filter::new(Kind::LinkDefinition, &[actor, "", ""])
    }

    fn lattice() -> LatticeName {
        LatticeName::parse("default").unwrap()
    }

    #[test]
    fn a_token_is_bound_to_lattice_stream_and_filter() {
        let epoch = Epoch::from_number(7);
        let last = EntryKey::LinkDefinition(LinkId::new("M", "c", "n"));
        let token = links("M").token(&lattice(), epoch, &last);
        assert_eq!(links("M").parse(&lattice(), epoch, &token), Some(last));
        assert_eq!(links("").parse(&lattice(), epoch, &token), None);
        assert_eq!(links("M").parse(&lattice(), Epoch::from_number(8), &token), None);
        let other = LatticeName::parse("other").unwrap();
        assert_eq!(links("M").parse(&other, epoch, &token), None);
        let claims = Filter::new(Kind::Claims, &["M"]);
        assert_eq!(claims.parse(&lattice(), epoch, &token), None);
    }

    proptest! {
        #[test]
        fn foreign_tokens_never_panic(token in ".{0,100}") {
            prop_assert_eq!(links("").parse(&lattice(), Epoch::from_number(1), &token), None);
        }
    }
}
