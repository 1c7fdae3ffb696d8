//! Turns answers into text: canonical JSON for programs, tables and lines for people.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    num::NonZeroU8,
};

use lattice_gateway::proto::{Outcome, Revision, WriteResult};
use pbjson_types::Timestamp;
use time::{
    OffsetDateTime,
    format_description::well_known::{
        Iso8601,
        iso8601::{Config, EncodedConfig, TimePrecision},
    },
};

use crate::{args::Format, failure::CommandError, table::printable};

/// Writes a response out in the form that was asked for; `table` says the same to people.
pub(crate) fn render<M: serde::Serialize>(
    format: Format,
    message: &M,
    table: impl FnOnce(&M) -> String,
) -> Result<String, CommandError> {
    match format {
        Format::Table => Ok(table(message)),
        Format::Json => serde_json::to_string_pretty(message)
            .map(|json| json + "\n")
            .map_err(|error| CommandError::Output(error.into())),
    }
}

/// Tells what became of a write, in one line.
pub(crate) fn written(result: Option<&WriteResult>, what: &str) -> String {
    let result = result.cloned().unwrap_or_default();
    let revision = match revision(result.revision).as_str() {
        "" => "revision not told".to_owned(),
        told => format!("revision {told}"),
    };
    let (word, remark) = match Outcome::try_from(result.outcome) {
        Ok(Outcome::Applied) => ("applied", revision.as_str()),
        Ok(Outcome::Unchanged) => ("unchanged", revision.as_str()),
        Ok(Outcome::AlreadyApplied) => ("already applied", revision.as_str()),
        Ok(Outcome::Validated) => ("valid", "nothing written"),
        Ok(Outcome::Unspecified) | Err(_) => ("answered", "outcome not told"),
    };
    let superseded = if result.superseded {
        "; superseded: something else was written to the entry since"
    } else {
        ""
    };
    format!("{word}  {}  ({remark}{superseded})\n", printable(what))
}

/// As `--at-least` takes it; empty for none.
pub(crate) fn revision(revision: Option<Revision>) -> String {
    revision.map_or_else(String::new, |it| format!("{}:{}", it.epoch, it.sequence))
}

/// RFC 3339 with three digits of a second: columns of times are even.
const TO_THE_MILLISECOND: EncodedConfig = Config::DEFAULT
    .set_time_precision(TimePrecision::Second {
        decimal_digits: NonZeroU8::new(3),
    })
    .encode();

/// RFC 3339 in UTC, to the millisecond; empty for none.
pub(crate) fn timestamp(timestamp: Option<&Timestamp>) -> String {
    let text = || {
        let timestamp = timestamp?;
        let millisecond = u16::try_from(timestamp.nanos / 1_000_000).ok()?;
        let time = OffsetDateTime::from_unix_timestamp(timestamp.seconds).ok()?;
        let time = time.replace_millisecond(millisecond).ok()?;
        time.format(&Iso8601::<TO_THE_MILLISECOND>).ok()
    };
    text().unwrap_or_default()
}

/// Values as `k=v`, comma-joined.
pub(crate) fn values(values: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = values
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// So many entries, in words.
pub(crate) fn entries(count: usize) -> String {
    match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    }
}

/// Tells something on standard error. Nobody may be listening; that is no reason to fail.
pub(crate) fn note(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "{}", text.trim_end()).ok();
}

#[cfg(test)]
mod tests {
    use lattice_gateway::proto::{LinkDefinition, PutLinkDefinitionResponse};

    use super::*;

    const REVISION: Revision = Revision {
        epoch: 5,
        sequence: 7,
    };

    fn line(outcome: Outcome, superseded: bool) -> String {
        let result = WriteResult {
            outcome: outcome.into(),
            revision: Some(REVISION),
            superseded,
            ..WriteResult::default()
        };
        written(Some(&result), "reference a -> M")
    }

    #[test]
    fn a_write_is_told_in_one_line() {
        assert_eq!(
            line(Outcome::Applied, false),
            "applied  reference a -> M  (revision 5:7)\n"
        );
        assert_eq!(
            line(Outcome::Unchanged, false),
            "unchanged  reference a -> M  (revision 5:7)\n"
        );
        assert_eq!(
            line(Outcome::Validated, false),
            "valid  reference a -> M  (nothing written)\n"
        );
        assert_eq!(
            line(Outcome::AlreadyApplied, true),
            "already applied  reference a -> M  \
             (revision 5:7; superseded: something else was written to the entry since)\n"
        );
        assert_eq!(written(None, "a\nb"), "answered  a\\nb  (outcome not told)\n");
    }

    #[test]
    fn json_is_the_response_message_as_the_api_defines_it() {
        let message = PutLinkDefinitionResponse {
            link_definition: Some(LinkDefinition {
                actor_id: "M".to_owned(),
                values: [("k".to_owned(), "v".to_owned())].into(),
                ..LinkDefinition::default()
            }),
            result: Some(WriteResult {
                outcome: Outcome::Applied.into(),
                revision: Some(REVISION),
                ..WriteResult::default()
            }),
        };
        let text = render(Format::Json, &message, |_| String::new()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["linkDefinition"]["values"]["k"], "v");
        assert_eq!(value["result"]["outcome"], "OUTCOME_APPLIED");
        assert_eq!(value["result"]["revision"]["sequence"], "7");
    }

    #[test]
    fn times_are_utc_to_the_millisecond() {
        let time = Timestamp {
            seconds: 1_704_067_200,
            nanos: 123_456_789,
        };
        assert_eq!(timestamp(Some(&time)), "2024-01-01T00:00:00.123Z");
        let even = Timestamp {
            nanos: 120_000_000,
            ..time
        };
        assert_eq!(timestamp(Some(&even)), "2024-01-01T00:00:00.120Z");
        assert_eq!(timestamp(None), "");
    }

    #[test]
    fn values_are_comma_joined_pairs() {
        let given = [("port", "80"), ("host", "a")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(values(&given.into()), "host=a,port=80");
    }
}
