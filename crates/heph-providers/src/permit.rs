//! Leave to ask a provider, which the policy gives.

use heph_types::{Leaves, Policy};

use crate::provider::Provider;

/// Says that the policy lets this provider see the text of a request. The client asks nobody without one, and nothing but
/// [`Permit::of`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Permit<'a>(&'a Provider);

/// Why a provider is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The person did not allow it.
    #[error("the provider {0} is not allowed to see any text")]
    Provider(String),
    /// The policy keeps text from it.
    #[error("the policy lets the provider {name} see {sees}, and it would see the text")]
    Policy {
        /// The provider.
        name: String,
        /// What it may see.
        sees: Leaves,
    },
}

impl<'a> Permit<'a> {
    /// Leave to show `provider` a text, where it was allowed by name and `policy` says no less of its role.
    ///
    /// # Errors
    /// When one of the two says otherwise.
    pub fn of(provider: &'a Provider, policy: &Policy) -> Result<Self, Forbidden> {
        let name = || provider.name.clone();
        if provider.sees < Leaves::Text {
            return Err(Forbidden::Provider(name()));
        }
        let sees = policy.seen_by(provider.node(), provider.role);
        if sees < Leaves::Text {
            return Err(Forbidden::Policy { name: name(), sees });
        }
        Ok(Self(provider))
    }

    /// Whom it is for.
    pub fn provider(self) -> &'a Provider {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use heph_types::{NodeId, Role};

    use super::*;
    use crate::provider::testing::provider;

    #[test]
    fn both_the_person_and_the_policy_must_let_it_see_the_text() {
        let allowed = provider("openai", "https://api.example/v1");
        let unallowed = Provider {
            sees: Leaves::Nothing,
            ..allowed.clone()
        };
        let half = Provider {
            sees: Leaves::Activations,
            ..allowed.clone()
        };
        let own = Provider {
            role: Role::Own,
            ..allowed.clone()
        };
        let clouds = |leaves| Policy::open(leaves, &[Role::Cloud]);
        let forbidden = Policy {
            forbidden: vec![allowed.node()],
            ..clouds(Leaves::Text)
        };
        let other = Policy {
            forbidden: vec![NodeId([7; 32])],
            ..clouds(Leaves::Text)
        };
        let cases = [
            (&allowed, clouds(Leaves::Text), true),
            (&allowed, other, true),
            (&allowed, forbidden, false),
            (&allowed, clouds(Leaves::Activations), false),
            (&allowed, Policy::closed(), false),
            (&allowed, Policy::open(Leaves::Text, &[Role::Own]), false),
            (&unallowed, clouds(Leaves::Text), false),
            (&half, clouds(Leaves::Text), false),
            (&own, Policy::open(Leaves::Text, &[Role::Own]), true),
            (&own, clouds(Leaves::Text), false),
        ];
        for (provider, policy, may) in cases {
            assert_eq!(
                Permit::of(provider, &policy).is_ok(),
                may,
                "{:?} {:?} under {policy:?}",
                provider.role,
                provider.sees
            );
        }
    }
}
