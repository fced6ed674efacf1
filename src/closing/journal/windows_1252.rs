//! Windows-1252, the character set of DATEV's files.

/// The characters of 0x80 to 0x9F (Unicode Consortium, "cp1252 to Unicode table"); `\0`: none.
const UPPER: [char; 32] = [
    '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘', '’', '“',
    '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
];

/// The text in Windows-1252. What it cannot write becomes `?`, so that everybody sees that something is
/// missing.
pub(super) fn encode(text: &str) -> Vec<u8> {
    text.chars().map(byte_of).collect()
}

fn byte_of(c: char) -> u8 {
    match u8::try_from(u32::from(c)) {
        Ok(byte @ (0..0x80 | 0xA0..)) => byte,
        _ => {
            let place = UPPER.iter().position(|&upper| upper == c && c != '\0');
            place.and_then(|place| u8::try_from(place + 0x80).ok()).unwrap_or(b'?')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn what_cannot_be_written_is_seen() {
        assert_eq!(encode("Müller & Söhne – 5 €"), b"M\xfcller & S\xf6hne \x96 5 \x80");
        assert_eq!(encode("Łódź 東京 \u{81}"), b"?\xf3d? ?? ?");
    }
}
