//! Ranges: `[1,5)`, `empty`, `("2020-01-01 00:00:00",)`.

use hutong_schemas::sql_type::SqlType;

use super::{Misfit, element};
use crate::source::text::{Malformed, Scratch, decode, room};

const EMPTY: u8 = 0x01;
const LOWER_INCLUSIVE: u8 = 0x02;
const UPPER_INCLUSIVE: u8 = 0x04;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;

/// Writes the flags, then each bound that is there (`range_recv` of the server's `rangetypes.c`).
pub(super) fn put(sql_type: &SqlType, text: &str, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let bound_type = sql_type.bound().ok_or(Misfit::Kind)?;
    if text == "empty" {
        out.push(EMPTY);
        return Ok(());
    }
    let (lower_inclusive, rest) = match text.split_at_checked(1) {
        Some(("[", rest)) => (true, rest),
        Some(("(", rest)) => (false, rest),
        _ => return Err(Misfit::Text),
    };
    let (lower, rest) = bound(rest).ok_or(Misfit::Text)?;
    let rest = rest.strip_prefix(',').ok_or(Misfit::Text)?;
    let (upper, rest) = bound(rest).ok_or(Misfit::Text)?;
    let upper_inclusive = match rest {
        "]" => true,
        ")" => false,
        _ => return Err(Misfit::Text),
    };
    let flag = |holds: bool, flag: u8| if holds { flag } else { 0 };
    out.push(
        flag(lower_inclusive && lower.is_some(), LOWER_INCLUSIVE)
            | flag(upper_inclusive && upper.is_some(), UPPER_INCLUSIVE)
            | flag(lower.is_none(), LOWER_INFINITE)
            | flag(upper.is_none(), UPPER_INFINITE),
    );
    for bound in [lower, upper].into_iter().flatten() {
        put_bound(&bound_type, &bound, out)?;
    }
    Ok(())
}

/// Reads a bound, which is left out where there is none, and quoted where it has other characters
/// than digits and letters.
fn bound(text: &str) -> Option<(Option<String>, &str)> {
    if text.starts_with([',', ')', ']']) {
        return Some((None, text));
    }
    let mut bound = String::new();
    let mut is_quoted = false;
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' if is_quoted && chars.peek().is_some_and(|(_, next)| *next == '"') => {
                chars.next();
                bound.push('"');
            }
            '"' => is_quoted = !is_quoted,
            '\\' => bound.push(chars.next()?.1),
            ',' | ')' | ']' if !is_quoted => return Some((Some(bound), text.get(at..)?)),
            char => bound.push(char),
        }
    }
    None
}

/// `numeric` without digits: the signs of NaN and of the infinities.
const NOT_FINITE: [(&str, u16); 3] = [("NaN", 0xC000), ("Infinity", 0xD000), ("-Infinity", 0xF000)];

fn put_bound(bound_type: &SqlType, text: &str, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let mut scratch = Scratch::default();
    let mut arena = scratch.arena(text.len() + room(bound_type));
    match decode(bound_type, text.as_bytes(), &mut arena) {
        Ok(cell) => element(bound_type, &cell, out),
        Err(Malformed::NotFinite) => {
            let known = NOT_FINITE.iter().find(|(name, _)| *name == text);
            let (_, sign) = known.ok_or(Misfit::Text)?;
            out.extend_from_slice(&8_i32.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&sign.to_be_bytes());
            out.extend_from_slice(&[0; 2]);
            Ok(())
        }
        Err(_) => Err(Misfit::Text),
    }
}
