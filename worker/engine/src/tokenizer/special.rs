use super::table::TokenTable;
use super::vocabulary::TokenKind;

/// A part of a text: a token found in it, or what lies between.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// The tokens that are read from a text before it is cut into words.
pub(super) struct SpecialTokens {
    /// By first byte: the ids of the tokens that begin with it, longest first.
    by_first_byte: Vec<Vec<u32>>,
}

impl SpecialTokens {
    pub(super) fn new(table: &TokenTable) -> Self {
        let mut by_first_byte = vec![Vec::new(); 256];
        for id in 0..table.len() as u32 {
            let special = !matches!(
                table.kind(id),
                Some(TokenKind::Normal | TokenKind::Unused | TokenKind::Byte) | None
            );
            if let (true, Some(&first)) = (special, table.written(id).first()) {
                by_first_byte[usize::from(first)].push(id);
            }
        }
        for ids in &mut by_first_byte {
            ids.sort_by_key(|&id| std::cmp::Reverse(table.written(id).len()));
        }
        Self { by_first_byte }
    }

    /// Cuts `text` at its special tokens: control tokens only with `parse_special`, those that the
    /// vocabulary defines as text always. Where two overlap the longer is taken, wherever it
    /// begins; of equal ones the first.
    pub(super) fn split<'t>(
        &self,
        text: &'t str,
        parse_special: bool,
        table: &TokenTable,
    ) -> Vec<Part<'t>> {
        let mut found = self.occurrences(text, parse_special, table);
        found.sort_by_key(|&(start, end, _)| (std::cmp::Reverse(end - start), start));
        // Taken tokens are no shorter than the next one, so it overlaps one only with an end.
        let mut taken = vec![false; if found.is_empty() { 0 } else { text.len() }];
        found.retain(|&(start, end, _)| {
            let free = !taken[start] && !taken[end - 1];
            if free {
                taken[start..end].fill(true);
            }
            free
        });
        found.sort_unstable_by_key(|&(start, ..)| start);

        let mut parts = Vec::with_capacity(2 * found.len() + 1);
        let mut from = 0;
        for (start, end, id) in found {
            if from < start {
                parts.push(Part::Text(&text[from..start]));
            }
            parts.push(Part::Token(id));
            from = end;
        }
        if from < text.len() {
            parts.push(Part::Text(&text[from..]));
        }
        parts
    }

    /// Every place where a special token stands: start, end, id.
    fn occurrences(
        &self,
        text: &str,
        parse_special: bool,
        table: &TokenTable,
    ) -> Vec<(usize, usize, u32)> {
        let mut found = Vec::new();
        for (start, &first) in text.as_bytes().iter().enumerate() {
            for &id in &self.by_first_byte[usize::from(first)] {
                let token = table.written(id);
                let read = parse_special || table.kind(id) == Some(TokenKind::UserDefined);
                if read && text.as_bytes()[start..].starts_with(token) {
                    found.push((start, start + token.len(), id));
                }
            }
        }
        found
    }
}
