//! Whether the gateway's clock and the NATS server's agree.

use super::{Diagnosis, Finding, FindingKind, Severity};

/// A look at both clocks, Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    /// The gateway's before the server was asked.
    pub(super) before: i64,
    /// The server's.
    pub(super) server: i64,
    /// The gateway's after the answer.
    pub(super) after: i64,
}

/// By how much they may differ, milliseconds: about what writes and retries are fenced with.
const BOUND: i64 = 2_000;
/// From when on tokens are judged wrongly, milliseconds: the leeway that they are given.
const LEEWAY: i64 = 30_000;

pub(super) fn judge(clocks: Clocks, diagnosis: &mut Diagnosis) {
    let Clocks {
        before,
        server,
        after,
    } = clocks;
    // As little as it can be: the server told its time somewhere between.
    let skew = match server {
        behind if behind < before => behind - before,
        ahead if ahead > after => ahead - after,
        _ => 0,
    };
    let severity = match skew.abs() {
        within if within <= BOUND => return,
        within if within <= LEEWAY => Severity::Warning,
        _ => Severity::Error,
    };
    diagnosis.add(severity, FindingKind::ClockSkew, || {
        let (ahead, behind) = match skew > 0 {
            true => ("NATS server's", "gateway's"),
            false => ("gateway's", "NATS server's"),
        };
        Finding::new(
            &"clock",
            format!("The {ahead} clock is {} ms ahead of the {behind}.", skew.abs()),
        )
        .evidence("skew_ms", &skew)
        .evidence("bound_ms", &BOUND)
        .remedy(
            "Keep the clocks of both machines by NTP.",
            "timedatectl timesync-status".to_owned(),
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(before: i64, server: i64, after: i64) -> Option<(Severity, String)> {
        let mut diagnosis = Diagnosis::default();
        judge(
            Clocks {
                before,
                server,
                after,
            },
            &mut diagnosis,
        );
        let ((severity, _), found) = diagnosis.found.pop_first()?;
        Some((severity, found.listed[0].evidence[0].1.clone()))
    }

    #[test]
    fn clocks_that_differ_by_more_than_the_bound_are_told_both_ways() {
        assert_eq!(judged(10_000, 10_005, 10_010), None);
        assert_eq!(judged(10_000, 12_010, 10_010), None);
        assert_eq!(judged(10_000, 8_000, 10_010), None);
        assert_eq!(
            judged(10_000, 12_011, 10_010),
            Some((Severity::Warning, "2001".to_owned()))
        );
        assert_eq!(
            judged(10_000, 7_999, 10_010),
            Some((Severity::Warning, "-2001".to_owned()))
        );
        assert_eq!(
            judged(100_000, 69_999, 100_010),
            Some((Severity::Error, "-30001".to_owned()))
        );
    }

    #[test]
    fn a_slow_answer_is_no_skew() {
        assert_eq!(judged(10_000, 14_000, 15_000), None);
    }
}
