//! The rules of fields (`buf.validate`) as JSON Schema has them, for what is sent: answers are not bound by them, since
//! hosts may have stored anything.
//!
//! What a schema refuses for them the gateway refuses; not the other way about.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value as Reflected};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::POOL;

/// Members of a schema.
pub(super) type Members = Map<String, Value>;

/// What the schema of a field says besides its type.
pub(super) fn of(field: &FieldDescriptor) -> Members {
    rules(field).map_or_else(Members::new, |rules| of_rules(&rules, field))
}

/// Whether a message without the field is refused.
pub(super) fn requires(field: &FieldDescriptor) -> bool {
    let Some(rules) = rules(field) else {
        return false;
    };
    // A field that has no presence is judged as empty where it is left out.
    is_set(&rules, "required")
        || !field.supports_presence() && of_rules(&rules, field).iter().any(refuses_nothing)
}

/// Whether a member of a schema refuses what is empty.
fn refuses_nothing((name, value): (&String, &Value)) -> bool {
    match (&**name, value) {
        ("pattern", Value::String(pattern)) => Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match("")),
        ("minLength" | "minItems", least) => *least != 0,
        _ => false,
    }
}

fn of_rules(rules: &DynamicMessage, field: &FieldDescriptor) -> Members {
    let typed = rules.fields().find_map(|(kind, rules)| {
        let rules = rules.as_message()?;
        Some((kind.name().to_owned(), rules.clone()))
    });
    let mut members = Members::new();
    let Some((kind, rules)) = typed else {
        return members;
    };
    let mut tell = |told: &[(&str, &str)]| {
        for (rule, member) in told {
            if let Some(value) = plain(&rules, rule) {
                members.insert((*member).to_owned(), value);
            }
        }
    };
    match &*kind {
        // A character has at least one byte.
        "string" => tell(&[
            ("max_bytes", "maxLength"),
            ("max_len", "maxLength"),
            ("min_len", "minLength"),
            ("pattern", "pattern"),
        ]),
        // 64 bits are texts in JSON, which have no such bounds.
        "int32" | "uint32" => tell(&[("gte", "minimum"), ("lte", "maximum")]),
        "bool" => tell(&[("const", "const")]),
        "enum" => {
            let refused = names(&rules, "not_in", field);
            if !refused.is_empty() {
                members.insert("not".to_owned(), json!({"enum": refused}));
            }
        }
        "repeated" => {
            tell(&[
                ("min_items", "minItems"),
                ("max_items", "maxItems"),
                ("unique", "uniqueItems"),
            ]);
            inside(&rules, "items", "items", field, &mut members);
        }
        "map" => {
            tell(&[("min_pairs", "minProperties"), ("max_pairs", "maxProperties")]);
            inside(&rules, "keys", "propertyNames", field, &mut members);
            inside(&rules, "values", "additionalProperties", field, &mut members);
        }
        _ => {}
    }
    members
}

/// Rules of what is in a list or a map.
fn inside(rules: &DynamicMessage, of: &str, member: &str, field: &FieldDescriptor, members: &mut Members) {
    let inner = rules.get_field_by_name(of);
    let inner = inner.as_deref().and_then(Reflected::as_message);
    let inner = inner.map(|rules| of_rules(rules, field)).unwrap_or_default();
    if !inner.is_empty() {
        members.insert(member.to_owned(), inner.into());
    }
}

fn rules(field: &FieldDescriptor) -> Option<DynamicMessage> {
    let extension = POOL.get_extension_by_name("buf.validate.field")?;
    let options = field.options();
    let is_given = options.has_extension(&extension);
    is_given.then(|| options.get_extension(&extension).as_message().cloned())?
}

fn is_set(rules: &DynamicMessage, rule: &str) -> bool {
    rules
        .get_field_by_name(rule)
        .is_some_and(|value| *value == Reflected::Bool(true))
}

/// The value of a rule that is given.
fn plain(rules: &DynamicMessage, rule: &str) -> Option<Value> {
    let value = rules
        .has_field_by_name(rule)
        .then(|| rules.get_field_by_name(rule))??;
    let flag = value.as_bool().map(Value::from);
    flag.or_else(|| value.as_i32().map(Value::from))
        .or_else(|| value.as_u32().map(Value::from))
        .or_else(|| value.as_u64().map(Value::from))
        .or_else(|| value.as_str().map(Value::from))
}

/// The names of an enum's values that a rule lists.
fn names(rules: &DynamicMessage, rule: &str, field: &FieldDescriptor) -> Vec<String> {
    let Kind::Enum(of) = field.kind() else {
        return Vec::new();
    };
    let listed = rules.get_field_by_name(rule);
    let listed = listed.as_deref().and_then(Reflected::as_list).unwrap_or_default();
    let numbers = listed.iter().filter_map(Reflected::as_i32);
    let named = numbers.filter_map(|number| of.get_value(number));
    named.map(|value| value.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::PACKAGE;

    /// Those that JSON Schema does not have, or not for what a text is in JSON.
    const LEFT_OUT: [(&str, &str); 4] = [
        ("duration", "gte"),
        ("duration", "lte"),
        ("uint64", "lte"),
        ("enum", "defined_only"),
    ];

    #[test]
    fn every_rule_of_the_api_is_told_or_left_out_on_purpose() {
        let messages = POOL
            .all_messages()
            .filter(|message| message.package_name() == PACKAGE);
        for field in messages.flat_map(|message| message.fields().collect::<Vec<_>>()) {
            let Some(rules) = rules(&field) else { continue };
            let told = of(&field);
            for (kind, rules) in rules
                .fields()
                .filter_map(|(kind, rules)| Some((kind, rules.as_message()?)))
            {
                let left_out = rules
                    .fields()
                    .filter(|(rule, _)| LEFT_OUT.contains(&(kind.name(), rule.name())))
                    .count();
                assert_eq!(
                    told.len() + left_out,
                    rules.fields().count(),
                    "{}: {rules:?} is told as {told:?}",
                    field.full_name()
                );
            }
        }
    }
}
