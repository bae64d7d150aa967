//! Who asks, and what that allows.
//!
//! A token has an owner, which is an organisation, and a role. The owner says *whose* objects are
//! seen and touched, the role says *what* may be done to them. The organisation `platform` runs the
//! installation: its tokens see everything. Whatever belongs to others does not exist for a caller,
//! so its answers are the same as for a name that was never used.

use crate::error::Error;

/// The organisation that runs the installation.
pub(crate) const PLATFORM: &str = "platform";

/// What a token allows, weakest first.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Looks.
    Reader,
    /// Looks, and changes connectors, views and schemas.
    Operator,
    /// All that, and hands out tokens.
    Admin,
}

impl Role {
    /// Returns the name under which it is stored.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Reads a stored name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Reader, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

/// The owner and role of the token that a request came with.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The organisation.
    pub(crate) owner: String,
    /// What it may do.
    pub(crate) role: Role,
}

impl Caller {
    /// Returns whether the caller runs the installation.
    pub(crate) fn is_platform(&self) -> bool {
        self.owner == PLATFORM
    }

    /// Returns whether the caller may see objects of an owner.
    pub(crate) fn sees(&self, owner: &str) -> bool {
        self.is_platform() || self.owner == owner
    }

    /// Returns the owner whose objects a listing is limited to; `None` is all.
    pub(crate) fn limit(&self) -> Option<&str> {
        (!self.is_platform()).then_some(self.owner.as_str())
    }

    /// Checks the role.
    ///
    /// # Errors
    ///
    /// Definite: the role is weaker.
    pub(crate) fn require(&self, role: Role) -> Result<(), Error> {
        if self.role >= role {
            return Ok(());
        }
        Err(Error::forbidden(format!(
            "a token with role {} is needed, this one has role {}",
            role.as_str(),
            self.role.as_str()
        )))
    }

    /// Checks role and that the caller runs the installation.
    ///
    /// # Errors
    ///
    /// Definite: another organisation's token, or a weaker role.
    pub(crate) fn require_platform(&self, role: Role) -> Result<(), Error> {
        self.require(role)?;
        if self.is_platform() {
            return Ok(());
        }
        Err(Error::forbidden(
            "a token of the organisation \"platform\" is needed",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(owner: &str, role: Role) -> Caller {
        Caller {
            owner: owner.into(),
            role,
        }
    }

    #[test]
    fn a_role_includes_the_weaker_ones_and_nothing_else() {
        let operator = caller("stax", Role::Operator);
        assert!(operator.require(Role::Reader).is_ok());
        assert!(operator.require(Role::Operator).is_ok());
        assert_eq!(
            operator.require(Role::Admin).unwrap_err().to_string(),
            "a token with role admin is needed, this one has role operator"
        );
    }

    #[test]
    fn an_organisation_sees_its_own_and_the_platform_sees_all() {
        assert!(caller("stax", Role::Admin).sees("stax"));
        assert!(!caller("stax", Role::Admin).sees("aic"));
        assert!(caller(PLATFORM, Role::Reader).sees("aic"));
        assert!(
            caller("stax", Role::Admin)
                .require_platform(Role::Reader)
                .is_err()
        );
    }
}
