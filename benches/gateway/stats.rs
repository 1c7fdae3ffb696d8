//! What rounds are made into.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::drive::Figures;

/// The one in the middle; not a number where there is none.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    quantile(figures, 0.5)
}

/// The one that so large a share of them is below; not a number where there is none.
pub(crate) fn quantile(figures: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut figures = figures.into_iter().collect::<Vec<_>>();
    figures.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is a place"
    )]
    let place = (figures.len() as f64 * share) as usize;
    let last = figures.len().saturating_sub(1);
    figures.get(place.min(last)).copied().unwrap_or(f64::NAN)
}

/// What every turn of a round told, by what was driven: one a round.
#[derive(Debug)]
pub(crate) struct Turns<K>(BTreeMap<K, Vec<Figures>>);

impl<K: Ord> Turns<K> {
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn add(&mut self, turn: K, figures: Figures) {
        self.0.entry(turn).or_default().push(figures);
    }

    /// The median over the rounds; none where there was no such turn.
    pub(crate) fn median(&self, turn: &K, figure: impl Fn(&Figures) -> f64) -> Option<f64> {
        self.0.get(turn).map(|rounds| median(rounds.iter().map(figure)))
    }

    /// Every round's figures, under the names that `name` gives.
    pub(crate) fn samples(&self, name: impl Fn(&K) -> String) -> Value {
        let turns = self.0.iter();
        turns
            .map(|(turn, rounds)| {
                let of =
                    |figure: fn(&Figures) -> f64| rounds.iter().map(figure).map(rounded).collect::<Vec<_>>();
                let told = json!({
                    "per_second": of(|figures| figures.per_second),
                    "p50_us": of(|figures| figures.p50),
                    "p90_us": of(|figures| figures.p90),
                    "p99_us": of(|figures| figures.p99),
                    "p999_us": of(|figures| figures.p999),
                    "processor_us": of(|figures| figures.processor),
                });
                (name(turn), told)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// To a tenth: more digits would tell nothing.
pub(crate) fn rounded(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}
