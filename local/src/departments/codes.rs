//! The codes by which departments know enterprises and persons, with their check digits.

/// Completes the first 17 characters of a unified social credit code (GB 32100-2015).
#[must_use]
pub fn unified_social_credit_code(first: &str) -> String {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";
    // 3^i mod 31.
    const WEIGHTS: [usize; 17] = [
        1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28,
    ];
    debug_assert_eq!(first.len(), WEIGHTS.len());
    let values = first.bytes().map(|byte| {
        let value = ALPHABET.iter().position(|letter| *letter == byte);
        value.expect("made of the code's alphabet")
    });
    let sum: usize = values
        .zip(WEIGHTS)
        .map(|(value, weight)| value * weight)
        .sum();
    let check = ALPHABET[(31 - sum % 31) % 31];
    format!("{first}{}", char::from(check))
}

/// Completes the first 8 characters of an organisation code (GB 11714-1997), without the dash.
#[must_use]
pub fn organisation_code(first: &str) -> String {
    const WEIGHTS: [u32; 8] = [3, 7, 9, 10, 5, 8, 4, 2];
    debug_assert_eq!(first.len(), WEIGHTS.len());
    let values = first
        .chars()
        .map(|letter| letter.to_digit(36).expect("a digit or a letter"));
    let sum: u32 = values
        .zip(WEIGHTS)
        .map(|(value, weight)| value * weight)
        .sum();
    let check = match 11 - sum % 11 {
        10 => 'X',
        11 => '0',
        digit => char::from_digit(digit, 10).expect("below ten"),
    };
    format!("{first}{check}")
}

/// Completes the first 14 digits of a business registration number (ISO 7064 MOD 11,10).
#[must_use]
pub fn registration_number(first: &str) -> String {
    debug_assert_eq!(first.len(), 14);
    let product = digits(first).fold(10, |product, digit| {
        let sum = match (product + digit) % 10 {
            0 => 10,
            sum => sum,
        };
        sum * 2 % 11
    });
    format!("{first}{}", (11 - product) % 10)
}

/// Completes the first 17 digits of a citizen's identity number (GB 11643-1999).
#[must_use]
pub fn citizen_number(first: &str) -> String {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    debug_assert_eq!(first.len(), WEIGHTS.len());
    let sum: u32 = digits(first)
        .zip(WEIGHTS)
        .map(|(digit, weight)| digit * weight)
        .sum();
    let check = char::from(b"10X98765432"[(sum % 11) as usize]);
    format!("{first}{check}")
}

fn digits(text: &str) -> impl Iterator<Item = u32> {
    text.chars()
        .map(|digit| digit.to_digit(10).expect("a digit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(complete: fn(&str) -> String, valid: &[&str]) {
        for code in valid {
            let first: String = code.chars().take(code.len() - 1).collect();
            assert_eq!(complete(&first), *code);
        }
    }

    #[test]
    fn check_digits_are_those_of_known_codes() {
        check(
            unified_social_credit_code,
            &[
                "9144030071526726XG",
                "91330100799655058B",
                "12100000400010275N",
                "92370705MA3C00011N",
            ],
        );
        check(
            organisation_code,
            &[
                "D2143569X",
                "71526726X",
                "000013127",
                "MA3C00011",
                "265700125",
            ],
        );
        check(
            registration_number,
            &["110108000000016", "440301103097413", "370781600000014"],
        );
        check(
            citizen_number,
            &[
                "11010519491231002X",
                "440524188001010014",
                "370705199602291234",
            ],
        );
    }
}
