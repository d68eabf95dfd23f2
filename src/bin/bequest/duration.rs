//! Times on the command line.

use std::time::Duration;

/// Reads `150ms`, `2s` or `1m`.
///
/// # Errors
/// In words for the command line.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a whole number with ms, s or m, like 150ms";
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(EXPECTED.to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| EXPECTED.to_owned())?;
    number.checked_mul(unit).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert!(duration("150").is_err_and(|message| message.contains("150ms")));
        assert!(duration("ms").is_err_and(|message| message.contains("whole number")));
    }
}
