//! Lexical pieces shared by all parsers: white space with folded lines, tokens, quoted strings, lists.

/// Linear white space as it occurs inside a value; a line end inside a value is always a folded line.
pub(crate) const fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

pub(crate) fn trim(text: &str) -> &str {
    let bytes = text.as_bytes();
    let (mut start, mut end) = (0, bytes.len());
    while start < end && is_lws(bytes[start]) {
        start += 1;
    }
    while end > start && is_lws(bytes[end - 1]) {
        end -= 1;
    }
    &text[start..end]
}

/// RFC 3261 section 25.1, `token`.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

static TOKEN: [bool; 256] = table(b"-.!%*_+`'~");

/// The set of letters, digits and these characters.
pub(crate) const fn table(others: &[u8]) -> [bool; 256] {
    let mut set = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        set[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        set[others[at] as usize] = true;
        at += 1;
    }
    set
}

/// The texts before and after the first `byte`, which must be ASCII. Quicker on short texts than `split_once`.
pub(crate) fn split_at_byte(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(byte, text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// The index after a quoted string that begins at `start` with its quote; `None` when it does not end.
pub(crate) fn quoted_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// The index of the first `stop` outside quoted strings and angle brackets, or the length of the text.
pub(crate) fn find_outside(bytes: &[u8], from: usize, stop: u8) -> usize {
    let mut at = from;
    let mut angle = false;
    while at < bytes.len() {
        let byte = bytes[at];
        if !angle && byte == stop {
            return at;
        }
        match byte {
            b'"' if !angle => match quoted_end(bytes, at) {
                Some(end) => {
                    at = end;
                    continue;
                }
                None => return bytes.len(),
            },
            b'<' => angle = true,
            b'>' => angle = false,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Decimal digits only, no sign; `None` when empty, not digits, or too large.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        // Leading zeroes are legal (RFC 4475 section 3.1.1.1), however many.
        let digits = text.trim_start_matches('0');
        if text.is_empty() || digits.len() > 19 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        return if digits.is_empty() { Some(0) } else { digits.parse().ok() };
    }
    text.bytes().try_fold(0_u64, |sum, byte| {
        byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0'))
    })
}
