//! What is checked of a call, without the call: who calls, a grant, and claims.

use std::hint::black_box;

use lattice_gateway::domain::claims_token;
use serde_json::json;
use tokio::time::Instant;

use super::{
    access::Access,
    keys, progress,
    report::{Bound, Goal, Section, Table},
    stats::{median, rounded},
};

pub(crate) fn measure() -> Section {
    progress("checks");
    let access = Access::measure();
    let claims = verification();
    let rows = [
        (
            "letting in by a token, of 10,000 callers",
            access.token,
            Some(3.0),
        ),
        (
            "letting in by a client certificate",
            access.certificate,
            Some(3.0),
        ),
        ("of that, the check of a grant", access.grant, Some(2.0)),
        ("verifying a claims token that was never seen", claims, None),
    ];
    let mut table = Table::new(&["", "time"]);
    for (what, micros, _) in rows {
        table.row([what.to_owned(), format!("{micros:.2} µs")]);
    }
    let goals = rows.into_iter().filter_map(|(what, micros, most)| {
        Some(Goal {
            what: what.to_owned(),
            reached: Some(micros),
            bound: Bound::AtMost(most?),
            unit: " µs",
        })
    });
    Section {
        name: "checks",
        title: "Checks",
        text: "Within one process, medians of 21 batches.".to_owned(),
        tables: vec![table],
        goals: goals.collect(),
        samples: json!({
            "token_us": access.token, "certificate_us": access.certificate, "grant_us": access.grant,
            "claims_us": rounded(claims),
        }),
        ..Section::default()
    }
}

/// Microseconds that the verification of a claims token takes: its form, both keys, and the signature.
fn verification() -> f64 {
    const BATCHES: usize = 21;
    const TOKENS: u32 = 500;
    let (token, _actor) = keys::actor_token(&nkeys::KeyPair::new_account(), json!({}));
    let batch = |_| {
        let began = Instant::now();
        for _ in 0..TOKENS {
            assert!(
                claims_token::verify(black_box(&token)).is_ok(),
                "the token is fine"
            );
        }
        began.elapsed().as_secs_f64() * 1e6 / f64::from(TOKENS)
    };
    median((0..BATCHES).map(batch))
}
