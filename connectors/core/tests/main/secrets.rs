//! References and what they resolve to.

use std::path::Path;

use hutong_connectors_core::secret::{Secret, SecretRef, Secrets, is_reference};
use hutong_schemas::class::{Class, Classified};
use proptest::prelude::*;

fn resolve(dir: &Path, reference: &str) -> Result<String, String> {
    let secrets = Secrets {
        dir: Some(dir.to_owned()),
    };
    let reference: SecretRef = reference.parse().unwrap();
    let resolved = secrets.resolve(&reference);
    resolved
        .map(|secret| secret.reveal().to_owned())
        .map_err(|error| {
            assert_eq!(error.class(), Class::Transient);
            error.to_string()
        })
}

#[test]
fn a_key_of_a_properties_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let content =
        "# comment\nuser=x\n password = s3 cret=1 \nother:a\\:b\\\\\nblank v\npassword=second\n";
    std::fs::write(dir.path().join("a.properties"), content).unwrap();
    let found = |key: &str| resolve(dir.path(), &format!("${{file:a.properties:{key}}}"));
    assert_eq!(found("password").unwrap(), "s3 cret=1 ");
    assert_eq!(found("other").unwrap(), "a:b\\");
    assert_eq!(found("blank").unwrap(), "v");
    let missing = found("nothing").unwrap_err();
    assert_eq!(
        missing,
        "could not resolve ${file:a.properties:nothing}: the file has no key \"nothing\""
    );
}

#[test]
fn a_file_of_a_directory_is_found_without_its_line_end() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    std::fs::write(dir.path().join("db/password"), "two\nlines\r\n").unwrap();
    let relative = resolve(dir.path(), "${directory:db:password}");
    assert_eq!(relative.unwrap(), "two\nlines");
    let absolute = format!(
        "${{directory:{}:password}}",
        dir.path().join("db").display()
    );
    assert_eq!(resolve(dir.path(), &absolute).unwrap(), "two\nlines");
}

#[test]
fn nothing_outside_of_the_directory_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("k"), "root=x").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    for reference in [
        format!("${{file:{}:root}}", outside.path().join("k").display()),
        "${directory:..:passwd}".to_owned(),
        "${file:/etc/passwd:root}".to_owned(),
        "${directory:link:k}".to_owned(),
        format!("${{directory:db:{}}}", outside.path().join("k").display()),
    ] {
        let refused = resolve(dir.path(), &reference).unwrap_err();
        assert!(!refused.contains("root=x"), "{refused}");
    }
    let none = Secrets { dir: None };
    let reference = "${file:a:b}".parse().unwrap();
    assert!(
        none.resolve(&reference)
            .unwrap_err()
            .to_string()
            .contains("no secrets.dir")
    );
}

#[test]
fn only_variables_with_our_prefix_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let refused = resolve(dir.path(), "${env:PATH}").unwrap_err();
    assert!(
        refused.contains("only variables named HUTONG_SECRET_…"),
        "{refused}"
    );
    let missing = resolve(dir.path(), "${env:HUTONG_SECRET_NOT_SET}").unwrap_err();
    assert!(missing.contains("is not set"), "{missing}");
}

#[test]
fn a_secret_is_not_shown() {
    assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
}

#[test]
fn what_is_no_reference_is_told_apart() {
    for text in [
        "hunter2",
        "",
        "${}",
        "${file}",
        "${file:x}",
        "${env:}",
        "${vault:a:b}",
        "${file::k}",
        "x${env:A}",
    ] {
        assert!(text.parse::<SecretRef>().is_err(), "{text}");
    }
    assert!(is_reference("${vault:a:b}"));
    assert!(!is_reference("a price of ${x}"));
    assert_eq!("${env::A}".parse::<SecretRef>(), "${env:A}".parse());
}

proptest! {
    #[test]
    fn a_reference_reads_back_as_it_is_shown(path in "[a-zA-Z0-9/._ -]{1,20}", key in "[a-z.]{1,10}") {
        for text in [format!("${{file:{path}:{key}}}"), format!("${{directory:{path}:{key}}}"), format!("${{env:{key}}}")] {
            let reference: SecretRef = text.parse().unwrap();
            prop_assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn a_written_property_is_found_whatever_it_holds(value in "[ -~]{0,30}") {
        let dir = tempfile::tempdir().unwrap();
        let escaped = value.replace('\\', "\\\\");
        let escaped = match escaped.strip_prefix(' ') {
            Some(rest) => format!("\\ {rest}"),
            None => escaped,
        };
        std::fs::write(dir.path().join("f"), format!("k={escaped}\n")).unwrap();
        prop_assert_eq!(resolve(dir.path(), "${file:f:k}").unwrap(), value);
    }

    #[test]
    fn anything_else_is_refused_without_panic_and_without_being_repeated(text in "[^$]{8,30}") {
        let error = text.parse::<SecretRef>().unwrap_err();
        prop_assert!(!error.to_string().contains(&text));
    }
}
