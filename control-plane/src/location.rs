//! Where tasks run, and who may let them run there.
//!
//! A worker at a location reaches what that network reaches, and databases there may trust its
//! address. So a location belongs to somebody: a department's front node to the department, and only
//! its own connectors and views run there, and the platform's. A central location may be for all.

use std::collections::BTreeMap;

use hutong_transport::names::{DEFAULT_LOCATION, is_name};
use serde::{Deserialize, Deserializer};

use crate::caller::{Caller, PLATFORM};
use crate::error::Error;

/// Stands for every organisation.
const EVERYBODY: &str = "*";

/// The locations, each with the organisation that may use it.
///
/// Written as names, or as `name: owner`, in a list or as a map. An owner is an organisation,
/// `platform`, or `*` for everybody. A name alone is the platform's, except for `default`, which is
/// everybody's: it is where connectors run that name no location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locations(BTreeMap<String, String>);

impl Default for Locations {
    fn default() -> Self {
        [DEFAULT_LOCATION.to_owned()].into_iter().collect()
    }
}

impl FromIterator<String> for Locations {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().map(with_usual_owner).collect())
    }
}

fn with_usual_owner(name: String) -> (String, String) {
    let owner = if name == DEFAULT_LOCATION {
        EVERYBODY
    } else {
        PLATFORM
    };
    (name, owner.to_owned())
}

impl<'de> Deserialize<'de> for Locations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "locations are a list of names or of `name: owner`, or a map of owners"
        )]
        enum Written {
            List(Vec<Item>),
            Map(BTreeMap<String, String>),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Item {
            Name(String),
            Owned(BTreeMap<String, String>),
        }
        let items = match Written::deserialize(deserializer)? {
            Written::Map(owners) => vec![Item::Owned(owners)],
            Written::List(items) => items,
        };
        let mut all = BTreeMap::new();
        for item in items {
            match item {
                Item::Name(name) => all.extend([with_usual_owner(name)]),
                Item::Owned(owners) => all.extend(owners),
            }
        }
        Ok(Self(all))
    }
}

impl Locations {
    /// Returns the names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Checks names and owners.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (name, owner) in &self.0 {
            let wrong = if !is_name(name) {
                name
            } else if !is_name(owner) && owner != EVERYBODY {
                owner
            } else {
                continue;
            };
            return Err(Error::field(
                "locations",
                format!("\"{wrong}\" is not a name"),
            ));
        }
        Ok(())
    }

    /// Returns the locations that a caller may use.
    pub(crate) fn of(&self, caller: &Caller) -> Vec<String> {
        let usable = self
            .0
            .iter()
            .filter(|(_, owner)| *owner == EVERYBODY || caller.sees(owner));
        usable.map(|(name, _)| name.clone()).collect()
    }

    /// Returns why a caller may not use a location. One of another organisation's does not exist
    /// for it.
    pub(crate) fn refusal(&self, caller: &Caller, location: &str) -> Option<String> {
        let usable = self.of(caller);
        if usable.iter().any(|name| name == location) {
            return None;
        }
        let usable = match usable.as_slice() {
            [] => "none".to_owned(),
            usable => usable.join(", "),
        };
        Some(format!(
            "\"{location}\" is not a location of this installation that you may use; those are: {usable}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::caller::Role;

    fn usable(locations: &Locations, owner: &str) -> String {
        let caller = Caller {
            owner: owner.to_owned(),
            role: Role::Operator,
        };
        locations.of(&caller).join(" ")
    }

    #[test]
    fn a_location_is_for_its_owner_and_the_platform() {
        for written in [
            json!(["default", "center", {"aic-front": "aic"}]),
            json!({"default": "*", "center": "platform", "aic-front": "aic"}),
        ] {
            let locations: Locations = serde_json::from_value(written).unwrap();
            locations.check().unwrap();
            assert_eq!(usable(&locations, "aic"), "aic-front default");
            assert_eq!(usable(&locations, "qts"), "default");
            assert_eq!(usable(&locations, "platform"), "aic-front center default");
        }
        assert_eq!(usable(&Locations::default(), "qts"), "default");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for written in [
            json!(["Moon"]),
            json!({"moon": "Some Body"}),
            json!({"": "aic"}),
        ] {
            let locations: Locations = serde_json::from_value(written).unwrap();
            assert!(locations.check().is_err());
        }
        let error = serde_json::from_value::<Locations>(json!("default")).unwrap_err();
        assert!(error.to_string().contains("a list of names"), "{error}");
    }
}
