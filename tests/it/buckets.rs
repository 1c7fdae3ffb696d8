//! Whatever happens to the buckets of hosts 0.60 to 1.9, through gateways and past them: what the gateways tell is what
//! readers of the era hold, every answer is true, and what a gateway wrote every reader reads.
//!
//! [`kv`] and [`component`] make up what happens to a lattice of their layout and play it on a real nats-server with two
//! gateways; [`kv_model`](crate::kv_model) and [`component_model`](crate::component_model) tell what readers make of it.

mod component;
mod kv;
mod stand;

use lattice_gateway::{domain::Claims, store::layout::Decoded};

use crate::{
    bucket_model::list,
    model::shown::{Fields, fields},
};

/// Claims as the gateway reads them, the schema as a reader shows it.
fn stored_claims(claims: &Claims, schema: impl Fn(&str) -> String) -> Fields {
    fields([
        ("issuer", claims.issuer.to_string()),
        ("name", claims.name.to_string()),
        ("call_alias", claims.call_alias.to_string()),
        ("capabilities", list([&*claims.capabilities])),
        ("tags", list([&*claims.tags])),
        ("revision", claims.revision.to_string()),
        (
            "version",
            claims.version.as_deref().unwrap_or_default().to_owned(),
        ),
        ("contract_id", claims.contract_id.to_string()),
        ("config_schema", schema(&claims.config_schema)),
    ])
}

/// Whether a message deletes the entry with these parts.
fn deletes(decoded: &Decoded, parts: [&str; 2]) -> bool {
    matches!(decoded, Decoded::Deleted { key, .. } if key.parts() == parts)
}
