//! What of entries the hosts of a layout keep. Pure; the layouts themselves decide.

use lattice_gateway::{
    control::lattices::Layout,
    domain::{self, EntryKey, Invalid, Violations},
    proto::{Claims, entry::Entry},
};

use crate::{
    apply::manifest::Desired,
    entry::{self, Kind},
};

/// Gives what can be put into a lattice of a layout, and tells what of it is lost.
pub(super) fn carry(desired: Vec<Desired>, layout: Layout) -> (Vec<Desired>, Vec<String>) {
    let mut carried = Vec::with_capacity(desired.len());
    let mut lost = Vec::new();
    for mut desired in desired {
        match keep(&mut desired, layout) {
            Kept::Whole => carried.push(desired),
            Kept::Without(fields) => {
                lost.push(format!("{} of {}", fields.join(", "), named(&desired)));
                carried.push(desired);
            }
            Kept::Not(reason) => lost.push(format!("{}: {reason}", named(&desired))),
        }
    }
    (carried, lost)
}

enum Kept {
    Whole,
    /// These of its fields were taken out.
    Without(Vec<String>),
    Not(String),
}

fn keep(desired: &mut Desired, layout: Layout) -> Kept {
    let kind = Kind::of(&desired.entry);
    let Some(part) = layout.part_of(kind.into()) else {
        return Kept::Not(format!("layout {} keeps no {}", layout.as_str(), kind.resource()));
    };
    // Of a token hosts keep what they can.
    let (Entry::Claims(claims), None) = (&mut desired.entry, &desired.token) else {
        return Kept::Whole;
    };
    let key = EntryKey::Claims(claims.public_key.as_str().into());
    match part.kept(&key, flat(claims), false) {
        Ok(_) => Kept::Whole,
        Err(violations) => without(claims, &violations, layout),
    }
}

/// Takes out of claims what a layout does not keep.
fn without(claims: &mut Claims, violations: &Violations, layout: Layout) -> Kept {
    let mut fields = Vec::new();
    for violation in violations.iter() {
        let field = violation.field.trim_start_matches("claims.");
        if violation.invalid == Invalid::Missing {
            return Kept::Not(format!(
                "layout {} needs a {field}, and the export has none: add it, or put the token instead",
                layout.as_str()
            ));
        }
        match field {
            "call_alias" => claims.call_alias.clear(),
            "capabilities" => claims.capabilities.clear(),
            "tags" => claims.tags.clear(),
            "contract_id" => claims.contract_id.clear(),
            "config_schema" => claims.config_schema.clear(),
            other => return Kept::Not(format!("{other} {}", violation.invalid)),
        }
        fields.push(field.to_owned());
    }
    Kept::Without(fields)
}

/// As hosts keep them.
fn flat(claims: &Claims) -> domain::Entry {
    domain::Entry::Claims(Box::new(domain::Claims {
        issuer: claims.issuer.as_str().into(),
        name: claims.name.as_str().into(),
        call_alias: claims.call_alias.as_str().into(),
        capabilities: claims.capabilities.join(",").into(),
        tags: claims.tags.join(",").into(),
        revision: claims.claims_revision.as_str().into(),
        version: Some(claims.version.as_str().into()),
        contract_id: claims.contract_id.as_str().into(),
        config_schema: claims.config_schema.as_str().into(),
    }))
}

fn named(desired: &Desired) -> String {
    let kind = Kind::of(&desired.entry).word();
    format!("{kind} {}", entry::name(&entry::identity(&desired.entry)))
}

#[cfg(test)]
mod tests;
