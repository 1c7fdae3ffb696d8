//! The members of stored bodies, read as loosely as Elixir hosts read them.

use serde_json::{Map, Value};

use super::first_wins;
use crate::domain::link_definition::Values;

/// The members of a stored body. Hosts keep whatever a member holds; here what is no text is shown as its JSON.
pub(super) struct Members {
    pub(super) object: Map<String, Value>,
    /// Whether every text that was read was there, and a text.
    pub(super) is_plain: bool,
}

impl Members {
    pub(super) fn read(body: &[u8]) -> Result<Self, &'static str> {
        Ok(Self {
            object: first_wins::object(body)?,
            is_plain: true,
        })
    }

    pub(super) fn identity(&mut self, name: &str, refusal: &'static str) -> Result<Box<str>, &'static str> {
        if let Some(Value::String(text)) = self.object.remove(name) {
            Ok(text.into())
        } else {
            Err(refusal)
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Box<str> {
        let value = self.object.remove(name).unwrap_or_default();
        self.loose(value)
    }

    /// Hosts up to 0.57.0 stored `null` or anything else that came; what is no object has no values to show.
    pub(super) fn values(&mut self, values: Value) -> Values {
        if let Value::Object(values) = values {
            values
                .into_iter()
                .map(|(key, value)| (key, self.loose(value)))
                .collect()
        } else {
            self.is_plain = false;
            Values::default()
        }
    }

    /// A member under its short or its long name; empty where it is absent.
    pub(super) fn either(&mut self, short: &str, long: &str) -> Box<str> {
        match self.object.remove(short).or_else(|| self.object.remove(long)) {
            Some(value) => self.loose(value),
            None => "".into(),
        }
    }

    /// A list under its short or its long name: a text, or an array of texts, comma-joined; empty where it is absent.
    pub(super) fn list(&mut self, short: &str, long: &str) -> Box<str> {
        match self.object.remove(short).or_else(|| self.object.remove(long)) {
            Some(Value::Array(items)) => {
                let items = items.into_iter().map(|item| self.loose(item));
                items.collect::<Vec<_>>().join(",").into()
            }
            Some(value) => self.loose(value),
            None => "".into(),
        }
    }

    fn loose(&mut self, value: Value) -> Box<str> {
        self.is_plain &= value.is_string();
        match value {
            Value::String(text) => text.into(),
            Value::Null => "".into(),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                other.to_string().into()
            }
        }
    }
}
