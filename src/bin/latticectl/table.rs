//! Lays out text for people: columns, and the fields of one thing.
//!
//! Nothing is cut. What a lattice stores was written by others, so control characters never reach the terminal.

/// Lays out rows, the first being the header, in columns as wide as their widest cell.
pub(crate) fn columns<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let header = header.map(str::to_owned);
    let rows = [header].into_iter().chain(rows);
    let rows: Vec<_> = rows.map(|row| row.map(|cell| cell_text(&cell))).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    rows.iter().map(|row| line(widths, row)).collect()
}

/// Lays out the fields of one thing, a line each. Fields without a value are left out.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let given = || fields.iter().filter(|(_, value)| !value.is_empty());
    let width = given().map(|(name, _)| name.len()).max().unwrap_or_default();
    given().fold(String::new(), |text, (name, value)| {
        text + &format!("{name:width$}  {}\n", printable(value))
    })
}

fn line<const N: usize>(widths: [usize; N], row: &[String; N]) -> String {
    let cells = widths.iter().zip(row);
    let line = cells.fold(String::new(), |line, (width, cell)| {
        line + &format!("{cell:width$}  ")
    });
    format!("{}\n", line.trim_end())
}

/// An empty cell shows as `-`, so that every row has every column.
fn cell_text(cell: &str) -> String {
    match cell {
        "" => "-".to_owned(),
        cell => printable(cell),
    }
}

/// Escapes control characters.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<const N: usize>(cells: [&str; N]) -> [String; N] {
        cells.map(str::to_owned)
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces() {
        let rows = [row(["MBCF", "", "a=1"]), row(["é", "wasmcloud:keyvalue", ""])];
        assert_eq!(
            columns(["ACTOR", "CONTRACT", "VALUES"], rows),
            "ACTOR  CONTRACT            VALUES\n\
             MBCF   -                   a=1\n\
             é      wasmcloud:keyvalue  -\n"
        );
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(columns(["URL", "KEY"], []), "URL  KEY\n");
    }

    #[test]
    fn long_values_are_not_cut() {
        let long = "x".repeat(5000);
        assert!(columns(["VALUE"], [[long.clone()]]).contains(&long));
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let given = [
            ("name", "Echo".to_owned()),
            ("longer than all", String::new()),
            ("tags", "a".to_owned()),
        ];
        assert_eq!(fields(&given), "name  Echo\ntags  a\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(
            columns(["A"], [row(["\u{1b}[2J\nx\u{9b}"])]),
            "A\n\\u{1b}[2J\\nx\\u{9b}\n"
        );
        assert_eq!(fields(&[("a", "b\tc".to_owned())]), "a  b\\tc\n");
    }
}
