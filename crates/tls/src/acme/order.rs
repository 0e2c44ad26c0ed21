//! One order: account, proofs, certificate.

use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, ChallengeHandle, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use sha2::{Digest as _, Sha256};

use crate::acme::{AcmeConfig, Challenges, Proof};
use crate::error::{Error, Result};
use crate::private::{self, Readers};

/// An authority looks from several places, and at its own pace.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .timeout(Duration::from_secs(180));

/// An account at the ACME server.
pub(crate) struct Account<'c> {
    config: &'c AcmeConfig,
    account: instant_acme::Account,
}

/// A proof that was laid out, for the tidying.
enum Laid {
    Http(String),
    Tls(String),
    Dns(String, String),
}

impl<'c> Account<'c> {
    /// Opens the account that was made earlier with the same server, or makes one. Who configures an ACME server agrees to its terms.
    pub(crate) async fn open(config: &'c AcmeConfig) -> Result<Self> {
        // Accounts belong to one server each.
        let digest = Sha256::digest(config.directory.as_bytes());
        let short: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let file = config.directory_path.join(format!("account-{short}.json"));
        let failed = |source| Error::Acme {
            directory: config.directory.clone(),
            source,
        };
        let builder = match &config.root {
            Some(root) => instant_acme::Account::builder_with_root(root),
            None => instant_acme::Account::builder(),
        };
        let builder = builder.map_err(failed)?;
        let saved = private::read(&file)?.and_then(|text| serde_json::from_str(&text).ok());
        let account = match saved {
            Some(saved) => builder.from_credentials(saved).await.map_err(failed)?,
            None => {
                let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
                let contacts: Vec<&str> = contact.as_deref().into_iter().collect();
                let new = NewAccount {
                    contact: &contacts,
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let (account, credentials) = builder.create(&new, config.directory.clone(), None).await.map_err(failed)?;
                let text = serde_json::to_string(&credentials).map_err(|error| failed(error.into()))?;
                private::write(&file, Readers::Owner, text.as_bytes())?;
                account
            }
        };
        Ok(Self { config, account })
    }

    /// Gets a certificate: chain and key in PEM.
    pub(crate) async fn order(&self, names: &[String], challenges: &Challenges) -> Result<(String, String)> {
        let identifiers: Vec<_> = names.iter().cloned().map(Identifier::Dns).collect();
        let mut order = self
            .account
            .new_order(&NewOrder::new(&identifiers))
            .await
            .map_err(|error| self.failed(error))?;
        let mut laid = Vec::new();
        let proved = self.prove(&mut order, challenges, &mut laid).await;
        for proof in laid {
            self.tidy(proof, challenges).await;
        }
        proved?;
        let key = order.finalize().await.map_err(|error| self.failed(error))?;
        let chain = order.poll_certificate(&PATIENCE).await.map_err(|error| self.failed(error))?;
        Ok((chain, key))
    }

    async fn prove(&self, order: &mut Order, challenges: &Challenges, laid: &mut Vec<Laid>) -> Result<()> {
        let kind = match self.config.proof {
            Proof::Http01 => ChallengeType::Http01,
            Proof::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Proof::Dns01(_) => ChallengeType::Dns01,
        };
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.failed(error))?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                status => return Err(self.unconfirmed(&name, format!("the authorization is {status:?}"))),
            }
            let Some(mut challenge) = authorization.challenge(kind.clone()) else {
                return Err(self.unconfirmed(&name, "it does not offer this proof for this name".to_owned()));
            };
            self.lay_out(&challenge, challenges, laid).await?;
            challenge.set_ready().await.map_err(|error| self.failed(error))?;
        }
        match order.poll_ready(&PATIENCE).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
            Ok(_) => Err(self
                .why(order)
                .await
                .unwrap_or_else(|| self.unconfirmed("the names", "it does not say why".to_owned()))),
            // A failed order may carry a problem too, but not the name that it is about.
            Err(error @ instant_acme::Error::Api(_)) => Err(self.why(order).await.unwrap_or_else(|| self.failed(error))),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn lay_out(&self, challenge: &ChallengeHandle<'_>, challenges: &Challenges, laid: &mut Vec<Laid>) -> Result<()> {
        let Identifier::Dns(name) = challenge.identifier().identifier else {
            return Err(self.unconfirmed(&challenge.identifier().to_string(), "it is no host name".to_owned()));
        };
        let proof = challenge.key_authorization();
        match &self.config.proof {
            Proof::Http01 => {
                challenges.add_http(&challenge.token, proof.as_str());
                laid.push(Laid::Http(challenge.token.clone()));
            }
            Proof::TlsAlpn01 => {
                challenges.add_tls(name, proof.digest().as_ref())?;
                laid.push(Laid::Tls(name.clone()));
            }
            Proof::Dns01(dns) => {
                let value = proof.dns_value();
                laid.push(Laid::Dns(name.clone(), value.clone()));
                dns.present(name, &value).await?;
            }
        }
        Ok(())
    }

    async fn tidy(&self, laid: Laid, challenges: &Challenges) {
        match (laid, &self.config.proof) {
            (Laid::Http(token), _) => challenges.remove_http(&token),
            (Laid::Tls(name), _) => challenges.remove_tls(&name),
            (Laid::Dns(name, value), Proof::Dns01(dns)) => dns.clean_up(&name, &value).await,
            (Laid::Dns(..), _) => {}
        }
    }

    /// What the server says about the proof that failed, if it does.
    async fn why(&self, order: &mut Order) -> Option<Error> {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let name = authorization.identifier().to_string();
            let Ok(state) = authorization.refresh().await else { continue };
            let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            if let Some(problem) = problem {
                return Some(self.unconfirmed(&name, problem.to_string()));
            }
        }
        None
    }

    fn failed(&self, source: instant_acme::Error) -> Error {
        Error::Acme {
            directory: self.config.directory.clone(),
            source,
        }
    }

    fn unconfirmed(&self, name: &str, problem: String) -> Error {
        Error::Unconfirmed {
            directory: self.config.directory.clone(),
            name: name.to_owned(),
            challenge: self.config.proof.name(),
            problem,
        }
    }
}
