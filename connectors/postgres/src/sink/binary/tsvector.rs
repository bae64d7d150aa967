//! `tsvector`: `'lexeme':1A,2 'other'`.

/// Writes the number of lexemes; of each its text, and its places with their weights
/// (`tsvectorrecv` of the server's `tsvector.c`).
pub(super) fn put(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut count = 0_i32;
    let mut rest = text;
    while !rest.is_empty() {
        rest = lexeme(rest, out)?;
        count += 1;
        rest = rest.strip_prefix(' ').unwrap_or(rest);
    }
    out[start..start + 4].copy_from_slice(&count.to_be_bytes());
    Some(())
}

fn lexeme<'t>(text: &'t str, out: &mut Vec<u8>) -> Option<&'t str> {
    let quoted = text.strip_prefix('\'')?;
    let mut bytes = quoted.bytes().enumerate();
    let end = loop {
        match bytes.next()? {
            // A quote and a backslash are written twice.
            (at, byte @ (b'\'' | b'\\')) => {
                if quoted.as_bytes().get(at + 1) == Some(&byte) {
                    bytes.next();
                    out.push(byte);
                } else {
                    break at;
                }
            }
            (_, byte) => out.push(byte),
        }
    };
    out.push(0);
    let rest = quoted.get(end..)?.strip_prefix('\'')?;
    let (places, rest) = match rest.strip_prefix(':') {
        None => ("", rest),
        Some(places) => places.split_at(places.find(' ').unwrap_or(places.len())),
    };
    let places: Option<Vec<u16>> = places
        .split(',')
        .filter(|place| !place.is_empty())
        .map(place)
        .collect();
    let places = places?;
    out.extend_from_slice(&u16::try_from(places.len()).ok()?.to_be_bytes());
    out.extend(places.iter().flat_map(|place| place.to_be_bytes()));
    Some(rest)
}

/// The weight in the upper two bits: A is 3, D is 0 and is not written.
fn place(text: &str) -> Option<u16> {
    let digits = text.trim_end_matches(['A', 'B', 'C', 'D']);
    let weight = match text.get(digits.len()..)? {
        "A" => 3,
        "B" => 2,
        "C" => 1,
        _ => 0,
    };
    let place: u16 = digits.parse().ok()?;
    (place < 1 << 14).then_some(weight << 14 | place)
}
