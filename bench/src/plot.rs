//! A plot in text: what an operation costs, by how many are queued.

/// One line a point: bars of the time each takes, and beside them what it would be
/// if it grew as the logarithm does, from the first point on.
pub fn costs(points: &[(usize, f64, f64)]) -> String {
    let mut text = String::new();
    for (name, of) in [
        (
            "enqueue",
            (|point| point.1) as fn(&(usize, f64, f64)) -> f64,
        ),
        ("hand-out", |point| point.2),
    ] {
        let longest = points.iter().map(of).fold(1.0, f64::max);
        text.push_str(&format!(
            "{name}, ns each (│: growth with log n from the first)\n"
        ));
        for point in points {
            let cost = of(point);
            let expected = points.first().map_or(cost, |first| {
                of(first) * logarithm(point.0) / logarithm(first.0)
            });
            text.push_str(&format!(
                "{:>9} {:<61} {cost:.0}\n",
                point.0,
                bar(cost / longest, expected / longest)
            ));
        }
    }
    text
}

#[allow(clippy::cast_precision_loss)]
fn logarithm(count: usize) -> f64 {
    (count.max(2) as f64).ln()
}

/// A bar of at most 50 places with a mark, which may lie beyond it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn bar(share: f64, mark: f64) -> String {
    let places = |share: f64| (share * 50.0).round().clamp(0.0, 60.0) as usize;
    let (length, mark) = (places(share), places(mark));
    (0..=length.max(mark))
        .map(|place| match place {
            place if place == mark => '│',
            place if place < length => '█',
            _ => ' ',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_that_grows_with_the_logarithm_ends_at_the_mark() {
        let text = costs(&[(1000, 30.0, 30.0), (1_000_000, 60.0, 30.0)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1].matches('█').count(), 25);
        assert!(lines[2].contains("█│"), "{text}");
        let flat = lines[5];
        assert!(flat.find('│') > flat.rfind('█'), "{text}");
    }
}
