//! References and what they resolve to.

use std::path::Path;

use hutong_connectors_core::connection::{Connection, SslMode, Tls};
use hutong_connectors_core::secret::{Secret, SecretRef, Secrets, is_reference};
use hutong_schemas::class::{Class, Classified};
use proptest::prelude::*;

fn resolve(dir: &Path, reference: &str) -> Result<String, String> {
    let secrets = Secrets {
        dir: Some(dir.to_owned()),
    };
    let reference: SecretRef = reference.parse().unwrap();
    let resolved = secrets.resolve_own(&reference);
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
        none.resolve_own(&reference)
            .unwrap_err()
            .to_string()
            .contains("no secrets.dir")
    );
}

/// Resolves a reference that an organisation posted.
fn resolve_of(dir: &Path, owner: &str, reference: &str) -> Result<String, String> {
    let secrets = Secrets {
        dir: Some(dir.to_owned()),
    };
    let resolved = secrets.of(owner).resolve(&reference.parse().unwrap());
    resolved
        .map(|secret| secret.reveal().to_owned())
        .map_err(|error| error.to_string())
}

/// A worker's folder: its own master secret, and a folder each for `aic` and `qts`.
fn folder_of_a_worker() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("master"), "k=of-all").unwrap();
    for owner in ["aic", "qts"] {
        std::fs::create_dir(dir.path().join(owner)).unwrap();
        std::fs::write(dir.path().join(owner).join("db"), format!("k=of-{owner}")).unwrap();
    }
    dir
}

#[test]
fn an_organisation_reaches_its_own_secrets_and_nobody_elses() {
    let dir = folder_of_a_worker();
    let path = dir.path();
    let own = format!("${{directory:{}:db}}", path.join("qts").display());
    for reference in ["${file:db:k}", "${directory:.:db}", &own] {
        let found = resolve_of(path, "qts", reference).unwrap();
        assert!(found.ends_with("of-qts"), "{reference}: {found}");
    }
    std::os::unix::fs::symlink(path.join("master"), path.join("qts/link")).unwrap();
    for reference in [
        format!("${{directory:{}:master}}", path.display()),
        format!("${{file:{}:k}}", path.join("aic/db").display()),
        "${directory:..:master}".to_owned(),
        "${directory:../aic:db}".to_owned(),
        "${directory:.:link}".to_owned(),
    ] {
        let refused = resolve_of(path, "qts", &reference).unwrap_err();
        assert!(refused.contains("there is no such file below"), "{refused}");
        // The same words whether the file is there or not.
        let absent = resolve_of(path, "qts", "${directory:../aic:nothing}").unwrap_err();
        let words = |text: &str| text.rsplit_once(": ").unwrap().1.to_owned();
        assert_eq!(words(&refused), words(&absent));
    }
    // Not even the platform's connectors reach what is the worker's own.
    std::fs::create_dir(path.join("platform")).unwrap();
    assert!(resolve_of(path, "platform", "${directory:..:master}").is_err());
    let secrets = Secrets {
        dir: Some(path.to_owned()),
    };
    let own = secrets.resolve_own(&"${file:master:k}".parse().unwrap());
    assert_eq!(own.unwrap().reveal(), "of-all");
}

#[test]
fn who_is_no_organisation_owns_nothing() {
    let dir = folder_of_a_worker();
    for owner in ["", ".", "..", "aic/../qts", "/", "AIC"] {
        let refused = resolve_of(dir.path(), owner, "${file:db:k}").unwrap_err();
        assert!(refused.contains("not known whose"), "{owner}: {refused}");
        let refused = resolve_of(dir.path(), owner, "${env:HUTONG_SECRET_X}").unwrap_err();
        assert!(refused.contains("use a file"), "{owner}: {refused}");
    }
}

#[test]
fn variables_belong_to_organisations_too() {
    let dir = folder_of_a_worker();
    for other in ["HUTONG_SECRET_MASTER", "HUTONG_SECRET_AIC__DB", "PATH"] {
        let refused = resolve_of(dir.path(), "qts", &format!("${{env:{other}}}")).unwrap_err();
        assert!(
            refused.contains("only variables named HUTONG_SECRET_QTS__…"),
            "{refused}"
        );
    }
    let missing = resolve_of(dir.path(), "qts", "${env:HUTONG_SECRET_QTS__DB}").unwrap_err();
    assert!(missing.contains("is not set"), "{missing}");
}

#[test]
fn the_key_of_a_client_is_a_secret_too() {
    let dir = folder_of_a_worker();
    let connection = |key: &Path| Connection {
        host: "db".to_owned(),
        port: 5432,
        database: "d".to_owned(),
        user: "u".to_owned(),
        password: Some("${file:db:k}".parse().unwrap()),
        tls: Tls {
            mode: SslMode::VerifyFull,
            root_cert: None,
            cert: None,
            key: Some(key.to_owned()),
        },
    };
    let secrets = Secrets {
        dir: Some(dir.path().to_owned()),
    };
    let mut own = connection(Path::new("db"));
    let password = secrets.of("qts").unlock(&mut own).unwrap();
    assert_eq!(password.unwrap().reveal(), "of-qts");
    assert!(own.tls.key.unwrap().ends_with("qts/db"));
    let others = dir.path().join("aic/db");
    let refused = secrets.of("qts").unlock(&mut connection(&others));
    assert!(refused.unwrap_err().to_string().contains("no such file"));
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
