//! `LIKE`: a pattern compiled once, matched without allocating.

use super::Invalid;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    parts: Vec<Part>,
    /// Whether `_` stands for a character (of text) or a byte (of bytea).
    characters: bool,
}

#[derive(Clone, Debug)]
enum Part {
    /// These bytes.
    Run(Vec<u8>),
    /// `_`
    One,
    /// `%`
    Many,
}

/// What makes the next character of a pattern literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// `ESCAPE ''`: nothing.
    None,
    /// `ESCAPE 'x'`, or a backslash where none was said.
    Character(char),
}

impl Pattern {
    /// Compiles a pattern for text.
    pub(super) fn text(pattern: &str, escape: Escape) -> Result<Self, Invalid> {
        let mut buffer = [0; 4];
        Self::compile(pattern.chars(), escape, true, |character, run| {
            run.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
        })
    }

    /// Compiles a pattern for bytes.
    pub(super) fn bytes(pattern: &[u8], escape: Escape) -> Result<Self, Invalid> {
        let characters = pattern.iter().map(|byte| char::from(*byte));
        Self::compile(characters, escape, false, |character, run| {
            run.push(u8::try_from(character).expect("the character was a byte"));
        })
    }

    fn compile(
        pattern: impl Iterator<Item = char>,
        escape: Escape,
        characters: bool,
        mut push: impl FnMut(char, &mut Vec<u8>),
    ) -> Result<Self, Invalid> {
        let mut parts = Vec::new();
        let mut run = Vec::new();
        let mut escaped = false;
        for character in pattern {
            let special = if escaped {
                None
            } else {
                special(character, escape)
            };
            escaped = special == Some(Special::Escape);
            match special {
                Some(Special::Escape) => {}
                None => push(character, &mut run),
                Some(Special::Part(part)) => {
                    if !run.is_empty() {
                        parts.push(Part::Run(std::mem::take(&mut run)));
                    }
                    parts.push(if part == '_' { Part::One } else { Part::Many });
                }
            }
        }
        if escaped {
            return Err(Invalid(
                "a LIKE pattern must not end with its escape character".to_owned(),
            ));
        }
        if !run.is_empty() {
            parts.push(Part::Run(run));
        }
        Ok(Self { parts, characters })
    }

    /// Returns whether the whole text fits the pattern. On a mismatch the last `%` takes one
    /// character more: an earlier one never needs to, so the work is at most text × pattern.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let (mut at, mut part) = (0, 0);
        let mut last_many: Option<(usize, usize)> = None;
        loop {
            match self.parts.get(part) {
                None if at == text.len() => return true,
                Some(Part::Many) => {
                    part += 1;
                    last_many = Some((part, at));
                    continue;
                }
                Some(Part::One) if at < text.len() => {
                    at = self.after(text, at);
                    part += 1;
                    continue;
                }
                Some(Part::Run(run)) if text[at..].starts_with(run) => {
                    at += run.len();
                    part += 1;
                    continue;
                }
                _ => {}
            }
            match last_many {
                Some((after, from)) if from < text.len() => {
                    at = self.after(text, from);
                    part = after;
                    last_many = Some((after, at));
                }
                _ => return false,
            }
        }
    }

    fn after(&self, text: &[u8], at: usize) -> usize {
        let mut next = at + 1;
        while self.characters && text.get(next).is_some_and(|byte| byte & 0xC0 == 0x80) {
            next += 1;
        }
        next
    }
}

#[derive(PartialEq, Eq)]
enum Special {
    Escape,
    Part(char),
}

/// An escape character of `%` or `_` wins over its meaning, as in PostgreSQL's `like_escape`.
fn special(character: char, escape: Escape) -> Option<Special> {
    if escape == Escape::Character(character) {
        return Some(Special::Escape);
    }
    matches!(character, '_' | '%').then_some(Special::Part(character))
}
