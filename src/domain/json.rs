//! JSON by a rule for what each member of an object may be, at any depth.
//!
//! Readers differ in which of two members with one name they take; serde takes the last without a word. Whoever reads
//! what others wrote says here what counts instead.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Takes a member into an object, or says why not.
pub(crate) trait MemberRule {
    /// Takes it, or refuses the whole text with this reason.
    fn take(object: &mut Map<String, Value>, name: String, value: Value) -> Result<(), &'static str>;
}

/// Reads a text by a rule; `None` where it is no object.
pub(crate) fn object<R: MemberRule>(text: &[u8]) -> Result<Option<Map<String, Value>>, serde_json::Error> {
    let Ruled::<R>(value, _) = serde_json::from_slice(text)?;
    Ok(match value {
        Value::Object(object) => Some(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    })
}

/// Reads an object in which, at any depth, no member stands twice; `None` for whatever else.
pub(crate) fn unambiguous_object(text: &[u8]) -> Option<Map<String, Value>> {
    object::<Unambiguous>(text).ok().flatten()
}

/// No member stands twice.
pub(crate) struct Unambiguous;

impl MemberRule for Unambiguous {
    fn take(object: &mut Map<String, Value>, name: String, value: Value) -> Result<(), &'static str> {
        match object.insert(name, value) {
            None => Ok(()),
            Some(_) => Err("a member stands twice"),
        }
    }
}

/// A value that was read by a rule.
struct Ruled<R>(Value, PhantomData<R>);

impl<'de, R: MemberRule> Deserialize<'de> for Ruled<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(RuledVisitor::<R>(PhantomData))?;
        Ok(Self(value, PhantomData))
    }
}

struct RuledVisitor<R>(PhantomData<R>);

impl<'de, R: MemberRule> Visitor<'de> for RuledVisitor<R> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Ruled(item, _)) = items.next_element::<Ruled<R>>()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Ruled(value, _))) = members.next_entry::<String, Ruled<R>>()? {
            R::take(&mut object, name, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Object(object))
    }
}
