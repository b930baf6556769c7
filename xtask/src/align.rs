//! Tables for people.

/// Pads the cells of every column to one width; those of the columns that `right` marks on the left.
pub(crate) fn align<const N: usize>(rows: &mut [[String; N]], right: [bool; N]) {
    for (column, right) in right.into_iter().enumerate() {
        let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        for row in &mut *rows {
            let cell = &row[column];
            row[column] = if right { format!("{cell:>width$}") } else { format!("{cell:width$}") };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut rows = [["a", "1"], ["bär", "12"]].map(|row| row.map(str::to_owned));
        align(&mut rows, [false, true]);
        assert_eq!(rows, [["a  ", " 1"], ["bär", "12"]]);
    }
}
