//! Spreads over time what would otherwise happen all at once.

/// What a pause is multiplied with: between 0.5 and 1, another one each time.
pub(crate) fn factor() -> f64 {
    let [.., byte] = *uuid::Uuid::now_v7().as_bytes();
    0.5 + f64::from(byte) / 512.0
}
