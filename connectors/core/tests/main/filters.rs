//! Include and exclude lists.

use hutong_connectors_core::name_filter::NameFilter;
use proptest::prelude::*;

#[track_caller]
fn check(include: Option<&str>, exclude: Option<&str>, name: &str, expected: bool) {
    let filter = NameFilter::new(include, exclude).unwrap();
    assert_eq!(
        filter.accepts(name),
        expected,
        "{include:?} {exclude:?} {name}"
    );
}

#[test]
fn an_expression_matches_whole_names_without_regard_to_case() {
    check(None, None, "a.b", true);
    check(Some("a.b"), None, "a.b", true);
    check(Some("a.b"), None, "a.bc", false);
    check(Some("a.b"), None, "xa.b", false);
    check(Some("A\\.B"), None, "a.b", true);
    check(Some("a|b"), None, "b", true);
    check(Some("a|b"), None, "bc", false);
    check(Some(" x , a\\..* "), None, "a.anything", true);
    check(None, Some("a\\..*"), "a.x", false);
    check(None, Some("a\\..*"), "b.x", true);
    check(Some(""), None, "a.x", true);
    check(Some("a{1\\,2}"), None, "aa", true);
}

#[test]
fn an_expression_that_matches_no_table_is_told() {
    let filter = NameFilter::new(Some("a.b,a.typo"), None).unwrap();
    let names = ["a.b".to_owned()];
    assert_eq!(filter.unmatched(&names).collect::<Vec<_>>(), ["a.typo"]);
}

#[test]
fn a_wrong_expression_is_named() {
    let error = NameFilter::new(Some("a.b,c("), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("\"c(\" is not a regular expression"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn a_plain_name_accepts_itself_and_nothing_longer(name in "[a-z_]{1,10}\\.[a-z_]{1,10}", more in "[a-z]{1,3}") {
        let filter = NameFilter::new(Some(&name.replace('.', "\\.")), None).unwrap();
        prop_assert!(filter.accepts(&name));
        let longer = format!("{name}{more}");
        prop_assert!(!filter.accepts(&longer));
    }

    #[test]
    fn any_list_is_answered_without_panic(list in ".{0,30}", name in ".{0,10}") {
        if let Ok(filter) = NameFilter::new(Some(&list), None) {
            let accepted = filter.accepts(&name);
            prop_assert_eq!(filter.accepts(&name), accepted);
        }
    }
}
