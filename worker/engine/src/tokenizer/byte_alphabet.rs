//! Byte-level BPE writes every byte as one printable character, so that a vocabulary is a list of
//! words. Printable Latin-1 stands for itself; the other 68 bytes follow from U+0100 on, in order.
//! Source: GPT-2, `bytes_to_unicode`.

/// The number of bytes that do not stand for themselves.
const MOVED: u32 = 68;

/// Whether `byte` is written as the character of the same number.
const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The moved bytes, in order: U+0100 stands for the first.
const MOVED_BYTES: [u8; MOVED as usize] = {
    let mut bytes = [0; MOVED as usize];
    let (mut code, mut next) = (0_u16, 0);
    while code < 256 {
        if !stands_for_itself(code as u8) {
            bytes[next] = code as u8;
            next += 1;
        }
        code += 1;
    }
    bytes
};

/// The byte that `character` writes, if it is in the alphabet.
pub(super) fn byte(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|&byte| stands_for_itself(byte)),
        code @ 0x100.. => MOVED_BYTES.get(code as usize - 0x100).copied(),
    }
}

/// The character that writes `byte`.
pub(crate) fn character(byte: u8) -> char {
    match MOVED_BYTES.binary_search(&byte) {
        Ok(at) => char::from_u32(0x100 + at as u32).unwrap_or(char::REPLACEMENT_CHARACTER),
        Err(_) => char::from(byte),
    }
}

/// Appends the bytes that `text` writes to `out`. Text outside the alphabet stands for itself.
pub(super) fn push_bytes(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for character in text.chars() {
        match byte(character) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                return out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{byte, character, push_bytes};

    #[test]
    fn every_byte_has_one_character() {
        for value in 0..=u8::MAX {
            assert_eq!(byte(character(value)), Some(value));
        }
        assert_eq!([b' ', b'\n', b'a', 0xad].map(character), ['Ġ', 'Ċ', 'a', 'Ń']);
        assert_eq!([' ', '한', '\u{144}'].map(byte), [None; 3]);
    }

    #[test]
    fn text_outside_the_alphabet_stands_for_itself() {
        let bytes = |text| {
            let mut out = b">".to_vec();
            push_bytes(text, &mut out);
            out
        };
        assert_eq!(bytes("Ġthe"), b"> the");
        assert_eq!(bytes("Ġ한"), ">Ġ한".as_bytes());
    }
}
