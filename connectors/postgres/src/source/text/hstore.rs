//! `hstore` as a JSON object: `"a"=>"1", "b"=>NULL` is `{"a":"1","b":null}`.

use serde_json::Value;

/// Returns the JSON, or `None` if the text is no hstore.
pub(super) fn to_json(text: &str) -> Option<String> {
    let mut json = String::from("{");
    let mut rest = text;
    while !rest.is_empty() {
        if json.len() > 1 {
            rest = rest.strip_prefix(", ")?;
            json.push(',');
        }
        let (key, after) = quoted(rest)?;
        rest = after.strip_prefix("=>")?;
        json.push_str(&Value::from(key).to_string());
        json.push(':');
        if let Some(after) = rest.strip_prefix("NULL") {
            json.push_str("null");
            rest = after;
        } else {
            let (value, after) = quoted(rest)?;
            json.push_str(&Value::from(value).to_string());
            rest = after;
        }
    }
    json.push('}');
    Some(json)
}

/// Reads a quoted text, in which a quote and a backslash have a backslash before them.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.push(chars.next()?.1),
            '"' => return Some((value, text.get(at + 1..)?)),
            char => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_members() {
        let check = |text: &str, json: Option<&str>| assert_eq!(to_json(text).as_deref(), json);
        check("", Some("{}"));
        check(r#""a"=>"1", "b"=>NULL"#, Some(r#"{"a":"1","b":null}"#));
        check(r#""x\"\\y"=>"\n""#, Some(r#"{"x\"\\y":"n"}"#));
        check(r#""a"=>"1",,"#, None);
        check(r#""a"#, None);
    }
}
