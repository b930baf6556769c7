//! Numbers on the command line: whoever types a wrong one reads what it must be.

use std::ops::RangeInclusive;

/// Why an argument is not such a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be a whole number from {} to {}", .0.start(), .0.end())]
pub(crate) struct NotInRange(RangeInclusive<u64>);

/// Parses a whole number of this range, which must fit into `T`.
pub(crate) fn number<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, NotInRange> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| NotInRange(range.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_is_told_what_it_must_be() {
        let parse = number::<u16>(2..=1000);
        assert_eq!([parse("2"), parse("1000")], [Ok(2), Ok(1000)]);
        for wrong in ["1", "1001", "six", "", "-3", "3.5", "99999999999999999999"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert_eq!(error, "it must be a whole number from 2 to 1000", "{wrong}");
        }
    }
}
