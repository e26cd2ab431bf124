//! Rows as a table, and sentences as lines: as wide as there is room. Pure.

/// How a cell is to look to whoever sees colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Heading,
    Good,
    Waiting,
    Bad,
}

/// What a column of a row says.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

/// Between two columns.
const GAP: usize = 2;
/// The last column is never cut shorter than this.
const LAST_MIN: usize = 16;

impl Cell {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: harmless(&text.into()), tone }
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::new(text, Tone::Plain)
    }

    pub(super) fn or_dash(text: Option<impl ToString>) -> Self {
        Self::plain(text.map_or_else(|| "-".to_owned(), |text| text.to_string()))
    }
}

/// `text` in a colour that a terminal understands.
pub(super) fn painted(text: &str, tone: Tone, has_colours: bool) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Heading => "1",
        Tone::Good => "32",
        Tone::Waiting => "33",
        Tone::Bad => "31",
    };
    if has_colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Columns side by side; with a `width` the last one is cut to fit.
pub(super) fn table(
    heads: &[&str],
    rows: &[Vec<Cell>],
    width: Option<usize>,
    has_colours: bool,
) -> String {
    let heads = heads.iter().map(|head| Cell::new(*head, Tone::Heading)).collect();
    let rows: Vec<&Vec<Cell>> = std::iter::once(&heads).chain(rows).collect();
    let columns = heads.len();
    let widest = |column: usize| {
        rows.iter().map(|row| row.get(column).map_or(0, |cell| length(&cell.text))).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or(0)).collect();
    let before: usize = widths.iter().take(columns - 1).map(|width| width + GAP).sum();
    let left = width.map(|width| width.saturating_sub(before).max(LAST_MIN));
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let is_last = column + 1 == columns;
            let shown = if is_last { cut(&cell.text, left) } else { cell.text.clone() };
            let fill = if is_last { 0 } else { widths[column] + GAP - length(&shown) };
            text += &painted(&shown, cell.tone, has_colours);
            text += &" ".repeat(fill);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// A sentence in lines of `width`, each after `indent`; a word is never broken.
pub(super) fn wrapped(text: &str, indent: &str, width: Option<usize>) -> String {
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(length(indent)).max(LAST_MIN));
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in harmless(text).split_whitespace() {
        if !line.is_empty() && length(&line) + 1 + length(word) > room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines.iter().map(|line| format!("{indent}{line}\n")).collect()
}

/// Without what would move a cursor or change colours: it comes from objects that anybody wrote.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if length(text) > room => {
            text.chars().take(room - 1).chain(std::iter::once('…')).collect()
        }
        _ => text.to_owned(),
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<Cell>> {
        let row = |a: &str, b: &str| vec![Cell::new(a, Tone::Bad), Cell::plain(b)];
        vec![row("solar", "a sentence of thirty letters..."), row("ü", "-")]
    }

    #[test]
    fn tables() {
        let text = table(&["NAME", "WHY"], &rows(), None, false);
        assert_eq!(text, "NAME   WHY\nsolar  a sentence of thirty letters...\nü      -\n");
        let text = table(&["NAME", "WHY"], &rows(), Some(27), false);
        assert_eq!(text, "NAME   WHY\nsolar  a sentence of thirt…\nü      -\n");
        let text = table(&["NAME", "WHY"], &rows(), Some(5), false);
        assert!(text.contains("solar  a sentence of t…\n"), "never shorter than that: {text}");
        let text = table(&["NAME"], &[vec![Cell::new("x", Tone::Bad)]], None, true);
        assert_eq!(text, "\x1b[1mNAME\x1b[0m\n\x1b[31mx\x1b[0m\n");
    }

    #[test]
    fn sentences() {
        let text = "no node takes it: node1: cordoned";
        assert_eq!(wrapped(text, "  ", None), format!("  {text}\n"));
        assert_eq!(
            wrapped(text, "  ", Some(20)),
            "  no node takes it:\n  node1: cordoned\n",
            "as wide as there is room"
        );
        let word = "x".repeat(40);
        assert_eq!(wrapped(&word, "", Some(20)), format!("{word}\n"), "a word stays whole");
        assert_eq!(wrapped("a\x1b[2Jb", "", None), "a [2Jb\n", "nobody clears the screen");
    }
}
