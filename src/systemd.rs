//! Tells systemd what the gateway does, where that started it with `Type=notify`; nobody else hears it.

use sd_notify::NotifyState;
use tracing::warn;

/// The gateway listens. Whether NATS is there is another question, which `/readyz` answers: a unit that waited for it would
/// be restarted for no fault of its own.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] comes behind it, whatever became of that.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "systemd is not told of a reload"),
    }
}

/// The gateway drains.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd was not told what the gateway does");
    }
}
