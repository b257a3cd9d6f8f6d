//! Who calls, and what they may do.

use std::collections::BTreeSet;
use std::str::FromStr;

use omma_common::error::{ApiError, Reason};
use omma_common::ids::{check_collection_name, shown_collection_name};

use super::scope::Scope;

/// What a caller may do. None includes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Search, and see what is stored.
    Read,
    /// Put and delete images.
    Write,
    /// Create and delete collections, and see the cluster's state.
    Admin,
}

/// A role that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; roles are read, write and admin")]
pub struct UnknownRole(String);

impl Role {
    /// As in the file of keys.
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let all = [Role::Read, Role::Write, Role::Admin];
        all.into_iter().find(|role| role.name() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// In which collections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Collections {
    /// In all of them, also those to come.
    All,
    /// In those of these names.
    Named(BTreeSet<String>),
}

impl Collections {
    /// Of names, or `*` alone. The error says which text is none.
    pub(crate) fn parse<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        if names.contains("*") {
            return if names.len() == 1 { Ok(Self::All) } else { Err("* stands alone".to_owned()) };
        }
        for name in &names {
            check_collection_name(name).map_err(|problem| format!("the collection name {name:?} {problem}"))?;
        }
        Ok(Self::Named(names))
    }
}

/// Somebody who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// For the audit log and for limits: `key:ID` or `jwt:SUBJECT`; `None` if callers need not say who they are.
    pub(crate) name: Option<String>,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) collections: Collections,
}

impl Caller {
    /// Where callers need not say who they are.
    pub(crate) fn anyone() -> Self {
        let roles = [Role::Read, Role::Write, Role::Admin].into();
        Self { name: None, roles, collections: Collections::All }
    }

    /// Who sent no credentials to a call that needs none: may do nothing else.
    pub(crate) fn nobody() -> Self {
        Self { name: None, roles: BTreeSet::new(), collections: Collections::Named(BTreeSet::new()) }
    }

    /// Who is not known, in the audit log.
    pub(crate) fn unknown() -> Self {
        Self { name: Some("unknown".to_owned()), ..Self::nobody() }
    }

    pub(crate) fn has(&self, role: Role) -> Result<(), ApiError> {
        if self.roles.contains(&role) {
            return Ok(());
        }
        let text = format!("this call needs the role {}, which these credentials do not have", role.name());
        Err(ApiError::new(Reason::PermissionDenied, text).with("role", role.name()))
    }

    /// Whether a collection is among those that the caller may see at all.
    pub(crate) fn sees(&self, collection: &str) -> bool {
        match &self.collections {
            Collections::All => true,
            Collections::Named(names) => names.contains(collection),
        }
    }

    /// The one check of what a message is about.
    pub(crate) fn authorise(&self, scope: &Scope<'_>) -> Result<(), ApiError> {
        match scope {
            Scope::Collection(name) if self.sees(name) => Ok(()),
            // Whether there is such a collection is not told.
            Scope::Collection(name) => {
                let name = shown_collection_name(name);
                let text = format!("these credentials are not for the collection {name:?}");
                Err(ApiError::new(Reason::PermissionDenied, text).with("collection", name))
            }
            Scope::Cluster if self.collections == Collections::All => Ok(()),
            Scope::Cluster => {
                let text = "this call is about the whole cluster, and these credentials are for some collections only";
                Err(ApiError::new(Reason::PermissionDenied, text))
            }
            // Checked when the name comes, or by showing only what the caller sees.
            Scope::Later => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn caller(collections: &[&str]) -> Caller {
        let collections = Collections::parse(collections.iter().copied()).unwrap();
        Caller { name: Some("key:a".into()), roles: [Role::Read].into(), collections }
    }

    #[test]
    fn a_caller_stays_in_its_collections() {
        let some = caller(&["a", "b"]);
        assert!(some.authorise(&Scope::Collection("a")).is_ok());
        for denied in [Scope::Collection("c"), Scope::Collection(""), Scope::Collection("*"), Scope::Cluster] {
            assert_eq!(some.authorise(&denied).unwrap_err().reason, Reason::PermissionDenied, "{denied:?}");
        }
        let long = "c".repeat(1 << 20);
        assert!(some.authorise(&Scope::Collection(&long)).unwrap_err().to_rpc_status().encoded_len() < 1000);
        let all = caller(&["*"]);
        assert!(all.authorise(&Scope::Collection("c")).is_ok() && all.authorise(&Scope::Cluster).is_ok());
        let none = caller(&[]);
        assert!(none.authorise(&Scope::Collection("a")).is_err());
    }

    #[test]
    fn no_role_includes_another() {
        let mut caller = caller(&["*"]);
        caller.roles = [Role::Admin].into();
        assert!(caller.has(Role::Admin).is_ok() && caller.has(Role::Read).is_err() && caller.has(Role::Write).is_err());
        assert_eq!("writer".parse::<Role>(), Err(UnknownRole("writer".into())));
        assert!(Collections::parse(["*", "a"].into_iter()).is_err());
        assert!(Collections::parse(["A b"].into_iter()).is_err());
    }
}
