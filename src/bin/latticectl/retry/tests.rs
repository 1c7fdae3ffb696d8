use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
const NO_PAUSE: Pause = Pause {
    dice: 0,
    asked_for: None,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Sends an attempt, lets it fail, and gives its retry age.
fn attempt(attempts: &mut Attempts, at: u64, class: Class) -> Option<Duration> {
    let sent = attempts.begin(ms(at));
    attempts.failed(class);
    sent.retry_age
}

fn reason(reason: ErrorReason) -> Class {
    class(Cause::Reason(Code::Unknown, reason))
}

#[test]
fn reasons_that_say_not_applied_leave_no_doubt() {
    for not_applied in [
        ErrorReason::BackendUnavailable,
        ErrorReason::ShuttingDown,
        ErrorReason::Overloaded,
        ErrorReason::Contention,
    ] {
        assert_eq!(reason(not_applied), Class::NotApplied);
    }
    assert_eq!(class(Cause::NotConnected), Class::NotApplied);
    let mut attempts = Attempts::new(TIMEOUT, None);
    assert_eq!(attempt(&mut attempts, 0, Class::NotApplied), None);
    assert_eq!(attempt(&mut attempts, 500, Class::NotApplied), None);
    assert_eq!(attempts.age(ms(900)), None);
}

#[test]
fn what_does_not_say_so_may_have_been_applied() {
    assert_eq!(reason(ErrorReason::OutcomeUnknown), Class::Doubtful);
    for cause in [
        Cause::NoAnswer,
        Cause::Interrupted,
        Cause::Code(Code::Unavailable),
        Cause::Code(Code::Unknown),
        Cause::Code(Code::Cancelled),
        Cause::Code(Code::Internal),
        Cause::Code(Code::DeadlineExceeded),
    ] {
        assert_eq!(class(cause), Class::Doubtful, "{cause:?}");
    }
}

#[test]
fn the_age_counts_from_the_first_attempt_that_may_have_been_applied() {
    let mut attempts = Attempts::new(TIMEOUT, None);
    assert_eq!(attempt(&mut attempts, 0, Class::NotApplied), None);
    assert_eq!(attempt(&mut attempts, 300, Class::Doubtful), None);
    assert_eq!(attempt(&mut attempts, 800, Class::Doubtful), Some(ms(500)));
    assert_eq!(attempt(&mut attempts, 1300, Class::NotApplied), Some(ms(1000)));
    assert_eq!(attempts.age(ms(2300)), Some(ms(2000)));
}

#[test]
fn a_resumed_command_is_in_doubt_from_its_start() {
    let mut attempts = Attempts::new(TIMEOUT, Some(ms(60_000)));
    assert_eq!(attempt(&mut attempts, 0, Class::NotApplied), Some(ms(60_000)));
    assert_eq!(attempt(&mut attempts, 500, Class::Doubtful), Some(ms(60_500)));
}

#[test]
fn only_a_judgement_against_the_entry_ends_the_doubt() {
    for (class, age) in [
        (reason(ErrorReason::EtagMismatch), None),
        (reason(ErrorReason::OutcomeSuperseded), None),
        (reason(ErrorReason::LatticeNotGranted), Some(ms(1000))),
        (reason(ErrorReason::NotProvisioned), Some(ms(1000))),
    ] {
        let mut attempts = Attempts::new(TIMEOUT, None);
        attempt(&mut attempts, 0, Class::Doubtful);
        attempt(&mut attempts, 500, class);
        assert_eq!(attempts.age(ms(1000)), age, "{class:?}");
        assert_eq!(attempts.next(class, NO_PAUSE, ms(1000)), Next::Stop);
    }
}

#[test]
fn a_fault_of_the_gateway_is_in_doubt_and_not_tried_again() {
    let fault = reason(ErrorReason::Internal);
    let mut attempts = Attempts::new(TIMEOUT, None);
    attempt(&mut attempts, 0, fault);
    assert_eq!(attempts.age(ms(1000)), Some(ms(1000)));
    assert_eq!(attempts.next(fault, NO_PAUSE, ms(1000)), Next::Stop);
}

#[test]
fn an_interruption_between_attempts_adds_no_doubt() {
    let mut attempts = Attempts::new(TIMEOUT, None);
    attempt(&mut attempts, 0, Class::NotApplied);
    attempts.failed(Class::Doubtful);
    assert_eq!(attempts.age(ms(200)), None);
}

#[test]
fn pauses_double_up_to_a_maximum_and_are_shortened_by_up_to_a_half() {
    let mut attempts = Attempts::new(Duration::from_secs(1000), None);
    for full in [200, 400, 800, 1600, 2000, 2000] {
        attempt(&mut attempts, 0, Class::Doubtful);
        let next = |dice| {
            let pause = Pause {
                dice,
                asked_for: None,
            };
            attempts.next(Class::Doubtful, pause, ms(100))
        };
        assert_eq!(next(0), Next::RetryIn(ms(full)));
        assert_eq!(next(500), Next::RetryIn(ms(full / 2)));
    }
}

#[test]
fn a_longer_pause_is_granted_when_asked_for() {
    let mut attempts = Attempts::new(TIMEOUT, None);
    attempt(&mut attempts, 0, Class::NotApplied);
    let ask = |asked| {
        let pause = Pause {
            dice: 0,
            asked_for: Some(ms(asked)),
        };
        attempts.next(Class::NotApplied, pause, ms(100))
    };
    assert_eq!(ask(1), Next::RetryIn(ms(200)));
    assert_eq!(ask(3000), Next::RetryIn(ms(3000)));
    assert_eq!(ask(9900), Next::Stop, "no time is left after it");
}

#[test]
fn pauses_leave_time_for_another_attempt_until_there_is_too_little() {
    let mut attempts = Attempts::new(TIMEOUT, None);
    attempt(&mut attempts, 0, Class::Doubtful);
    assert_eq!(
        attempts.next(Class::Doubtful, NO_PAUSE, ms(9800)),
        Next::RetryIn(ms(100))
    );
    assert_eq!(attempts.next(Class::Doubtful, NO_PAUSE, ms(9920)), Next::Stop);
}

#[test]
fn an_attempt_has_half_of_what_is_left_and_never_more() {
    let mut attempts = Attempts::new(TIMEOUT, None);
    for (now, time) in [(0, 5000), (6000, 2000), (8500, 1000), (9600, 400), (11_000, 0)] {
        assert_eq!(attempts.begin(ms(now)).time, ms(time), "at {now} ms");
    }
}
