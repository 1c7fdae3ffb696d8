//! What it costs to find out who calls, and to check a grant.

use std::{hint::black_box, sync::Arc, time::Duration};

use futures_util::FutureExt;
use http::HeaderMap;
use lattice_gateway::{
    auth::{
        LinksWrite, Policy, VerbName,
        access::Rule,
        authenticate::Authenticator,
        callers::{CallerConfig, Callers},
        limits::Limits,
        peer::{CertificateName, Peer, PeerCertificate},
    },
    domain::LatticeName,
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

const CALLERS: usize = 10_000;
const BATCHES: usize = 21;
const CALLS: u32 = 10_000;
const NOW: i64 = 1_800_000_000;

/// Microseconds a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// A static token, then the check of a grant.
    pub(crate) token: f64,
    /// A client certificate, then the check of a grant.
    pub(crate) certificate: f64,
    /// The check of a grant alone.
    pub(crate) grant: f64,
}

impl Access {
    /// With 10,000 callers, each with a token, a certificate, and grants on a lattice of its own and by a glob.
    pub(crate) fn measure() -> Self {
        let callers = (0..CALLERS).map(caller).collect();
        let authenticator =
            Authenticator::new(Arc::new(Callers::new(callers, &mut Vec::new())), Arc::default());
        let lattices = (0..CALLERS).map(lattice).collect::<Vec<_>>();
        let policy = Policy::serving(lattices.iter().map(String::as_str));
        let Some(lattice) = lattices
            .get(CALLERS / 2)
            .and_then(|name| LatticeName::parse(name).ok())
        else {
            unreachable!("a lattice's name parses");
        };
        let mut headers = HeaderMap::new();
        if let Ok(value) = format!("Bearer {}", token(CALLERS / 2)).parse() {
            headers.insert("authorization", value);
        }
        let peer = Peer {
            address: ([127, 0, 0, 1], 1).into(),
            certificate: Some(Arc::new(PeerCertificate {
                names: vec![name(CALLERS / 2)],
                sha256: [1; 32],
                not_after_unix_seconds: i64::MAX,
            })),
        };
        let let_in = |headers: &HeaderMap, peer: Option<&Peer>| {
            let found = authenticator.authenticate(headers, peer, NOW).now_or_never();
            let access = found.and_then(Result::ok).map(|found| found.access);
            access.is_some_and(|access| policy.grant::<LinksWrite>(&access, &lattice).is_ok())
        };
        let none = HeaderMap::new();
        let known = authenticator.callers();
        let known = known.by_name(&caller(CALLERS / 2).name);
        Self {
            token: micros(|| let_in(black_box(&headers), None)),
            certificate: micros(|| let_in(black_box(&none), Some(black_box(&peer)))),
            grant: micros(|| {
                known.is_some_and(|access| policy.grant::<LinksWrite>(black_box(access), &lattice).is_ok())
            }),
        }
    }
}

fn lattice(number: usize) -> String {
    format!("lattice-{number}")
}

fn token(number: usize) -> String {
    format!("lgw_{number:043}")
}

fn name(number: usize) -> CertificateName {
    CertificateName::Uri(format!("spiffe://example.org/caller/{number}"))
}

fn caller(number: usize) -> CallerConfig {
    CallerConfig {
        name: format!("caller-{number}"),
        tokens: vec![Sha256::digest(token(number)).into()],
        certificates: vec![name(number)],
        jwts: Vec::new(),
        rules: vec![
            Rule {
                lattices: std::iter::once("shared-*").collect(),
                verbs: std::iter::once(VerbName::Read).collect(),
            },
            Rule {
                lattices: std::iter::once(lattice(number).as_str()).collect(),
                verbs: [VerbName::Read, VerbName::LinksWrite].into_iter().collect(),
            },
        ],
        limits: Limits::default(),
    }
}

/// The median of batches.
fn micros(is_let_in: impl Fn() -> bool) -> f64 {
    let batch = || {
        let began = Instant::now();
        for _ in 0..CALLS {
            assert!(is_let_in(), "the caller is let in");
        }
        let time: Duration = began.elapsed();
        time.as_secs_f64() * 1e6 / f64::from(CALLS)
    };
    super::stats::median((0..BATCHES).map(|_| batch()))
}
