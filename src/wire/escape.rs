//! Paths as JSON strings and back, byte for byte.
//!
//! Linux names are bytes, JSON strings are Unicode. A name that is valid UTF-8 stands as it is; a byte that is part
//! of no character is written `\xHH`, and so that nothing is ambiguous a backslash is written `\\`.

/// The string form of a name.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for part in chunk.valid().split_inclusive('\\') {
            text.push_str(part);
            if part.ends_with('\\') {
                text.push('\\');
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The name that a string stands for; none if a backslash in it begins nothing that [`escape`] writes.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escaped = &rest[at + 1..];
        if let Some(after) = escaped.strip_prefix('\\') {
            bytes.push(b'\\');
            rest = after;
        } else {
            let digits = escaped.strip_prefix('x')?.get(..2)?;
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
            rest = &escaped[3..];
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_names_stand_as_they_are() {
        assert_eq!(escape(b"src/[id]/page 1.tsx"), "src/[id]/page 1.tsx");
        assert_eq!(escape("größe".as_bytes()), "größe");
        assert_eq!(escape(b"a\\b"), "a\\\\b");
        assert_eq!(escape(b"\xff.txt"), "\\xff.txt");
    }

    #[test]
    fn a_backslash_that_begins_nothing_is_refused() {
        for bad in ["\\", "\\n", "\\x", "\\x1", "\\xg0", "\\x+1", "a\\xé0"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back_byte_for_byte(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(&escape(&bytes)), Some(bytes));
        }
    }
}
