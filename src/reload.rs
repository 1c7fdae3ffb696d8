//! Takes over, while the gateway runs, what may change without a restart: callers, their grants and limits, certificates, the
//! keys of issuers of JWTs, and what is logged. Everything else of the configuration waits for the next start.
//!
//! The files are looked at every [`INTERVAL`], by their content, so that it does not matter how they are replaced (an
//! editor, a rename, the symbolic links of a mounted volume), and on SIGHUP. What does not parse changes nothing: the
//! last good configuration is kept, and logs and metrics tell.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tracing::{error, info};

use crate::{
    auth::{
        authenticate::Authenticator,
        jwt::{JwtVerifier, KeySource},
    },
    config::{Config, ConfigError, LogConfig},
    rpc::tls::Tls,
    systemd,
    telemetry::{self, Metrics},
};

/// How often the files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Watches the files of a configuration.
#[derive(Debug)]
pub struct Reloader {
    /// The configuration's file.
    pub file: PathBuf,
    /// Who knows the callers.
    pub authenticator: Arc<Authenticator>,
    /// What connections are secured with.
    pub tls: Option<Arc<Tls>>,
    /// The counts.
    pub metrics: Metrics,
}

impl Reloader {
    /// Watches for ever; SIGHUP is heard from now on. `running` is what the gateway runs with.
    pub fn watch(self, running: Config) -> impl Future<Output = ()> {
        let hangups = signal(SignalKind::hangup()).ok();
        self.watch_hearing(hangups, running)
    }

    async fn watch_hearing(self, mut hangups: Option<Signal>, running: Config) {
        let mut watched = self.watched(&running);
        let Config {
            log: LogConfig { mut filter, .. },
            mut jwt_issuers,
            mut jwts,
            ..
        } = running;
        let mut seen = fingerprint(&watched);
        loop {
            let hangup = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            let is_asked = tokio::select! {
                _ = hangup => true,
                () = sleep(INTERVAL) => false,
            };
            let now = fingerprint(&watched);
            if now == seen && !is_asked {
                continue;
            }
            seen = now;
            if is_asked {
                systemd::reloading();
            }
            match Config::read(&self.file) {
                Ok(config) => {
                    watched = self.watched(&config);
                    seen = fingerprint(&watched);
                    // Keys that were fetched are kept, unless their issuers have changed.
                    if config.jwt_issuers != jwt_issuers || jwts.reload_files().is_err() {
                        jwts = Arc::clone(&config.jwts);
                    }
                    jwt_issuers.clone_from(&config.jwt_issuers);
                    filter = self.take_over(config, Arc::clone(&jwts), &filter);
                }
                Err(ConfigError(mistakes)) => {
                    self.metrics.reloaded(false);
                    for mistake in mistakes {
                        error!(
                            mistake,
                            "the configuration is not taken over; the last good one is kept"
                        );
                    }
                }
            }
            if is_asked {
                systemd::ready();
            }
        }
    }

    fn watched(&self, config: &Config) -> Vec<PathBuf> {
        let own = std::iter::once(self.file.clone());
        let jwks = config.jwt_issuers.iter().filter_map(|issuer| match &issuer.keys {
            KeySource::File(file) => Some(file.clone()),
            KeySource::Url(_) => None,
        });
        let tls = config.tls.iter().flat_map(|tls| tls.files());
        own.chain(config.callers_file.clone())
            .chain(jwks)
            .chain(tls)
            .collect()
    }

    /// Gives what is logged from now on.
    fn take_over(&self, config: Config, jwts: Arc<JwtVerifier>, filter: &str) -> String {
        let callers = config.callers.iter().len();
        self.authenticator.replace(config.callers, jwts);
        if let (Some(running), Some(new)) = (&self.tls, &config.tls) {
            running.take_over(new);
            running.tell(&self.metrics);
        }
        if config.log.filter != filter && !telemetry::set_filter(&config.log.filter) {
            error!(filter = config.log.filter, "log.filter is not taken over");
        }
        self.metrics.reloaded(true);
        info!(callers, "the configuration was taken over");
        config.log.filter
    }
}

/// Of what the files hold; a file that cannot be read counts as another content.
fn fingerprint(files: &[PathBuf]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for file in files {
        match std::fs::read(file) {
            Ok(content) => hash.update(Sha256::digest(content)),
            Err(error) => hash.update(error.to_string()),
        }
    }
    hash.finalize().into()
}
