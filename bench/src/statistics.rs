//! Figures of many samples.

use std::time::Duration;

/// The value below which a share (0 to 1) of the samples lies; zero for none.
pub fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let last = samples.len().saturating_sub(1);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    let index = (last as f64 * share).round() as usize;
    samples.get(index).copied().unwrap_or_default()
}

/// In milliseconds, for printing.
pub fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// How many a second.
#[allow(clippy::cast_precision_loss)]
pub fn rate(count: usize, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_samples_are_samples() {
        let mut samples: Vec<_> = [3, 1, 2].map(Duration::from_millis).into();
        assert_eq!(quantile(&mut samples, 0.5), Duration::from_millis(2));
        assert_eq!(quantile(&mut samples, 1.0), Duration::from_millis(3));
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }
}
